"""A back end made with PyPI's `cent`: what came of each call goes to standard output, one JSON object a
line. Usage: cent_client.py API_URL API_KEY"""

import asyncio
import json
import sys

import requests
from cent import (
    AsyncClient,
    BroadcastRequest,
    CentApiResponseError,
    CentTransportError,
    CentUnauthorizedError,
    Client,
    HistoryRequest,
    InfoRequest,
    PublishRequest,
)


def report(call, **what):
    print(json.dumps({"call": call, **what}), flush=True)


def refused(call, what):
    """Makes a call that must not be done."""
    try:
        what()
        report(call, done=True)
    except CentApiResponseError as error:
        report(call, code=error.code, message=error.message)
    except CentTransportError as error:
        report(call, status=error.status_code)
    except CentUnauthorizedError:
        report(call, unauthorized=True)


async def publish_asynchronously(url, key):
    client = AsyncClient(url, key)
    try:
        await client.publish(PublishRequest(channel="news", data="asynchronous"))
    finally:
        await client.close()


def main(url, key):
    client = Client(url, key)
    client.publish(PublishRequest(channel="news", data={"grüße": [1, None, 1.5]}))
    broadcast = client.broadcast(BroadcastRequest(channels=["news", "sport"], data="goal"))
    report("broadcast", responses=len(broadcast.responses))
    (node,) = client.info(InfoRequest()).nodes
    report("info", clients=node.num_clients, subscriptions=node.num_subs, version=node.version)
    asyncio.run(publish_asynchronously(url, key))

    def ineffective(with_client):
        with_client.publish(PublishRequest(channel="news", data=1, skip_history=True))

    refused("no effect", lambda: ineffective(client))
    refused("no channel", lambda: client.publish(PublishRequest(channel="", data=1)))
    refused("no such method", lambda: client.history(HistoryRequest(channel="news")))
    refused("wrong key", lambda: Client(url, "not it").info(InfoRequest()))
    session = requests.Session()
    session.headers["X-Centrifugo-Error-Mode"] = "transport"
    refused("as a status", lambda: ineffective(Client(url, key, session=session)))
    client.publish(PublishRequest(channel="news", data="last"))


main(*sys.argv[1:])
