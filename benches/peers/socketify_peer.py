"""uWebSockets through socketify. Usage: socketify_peer.py PORT

It does not say Close on SIGTERM: ending connections from a list of them crashed it.
"""

import sys

from socketify import App, AppListenOptions, CompressOptions, OpCode

def upgrade(res, req, context):
    key = req.get_header("sec-websocket-key")
    protocol = req.get_header("sec-websocket-protocol")
    extensions = req.get_header("sec-websocket-extensions")
    res.upgrade(key, protocol, extensions, context, req.get_url())


def opened(ws):
    if ws.get_user_data() == "/ws":
        ws.subscribe("news")


def message(ws, data, opcode):
    path = ws.get_user_data()
    if path == "/echo":
        ws.send(data, opcode)
    elif path == "/publish":
        ws.publish("news", data, OpCode.TEXT)


app = App()
app.ws(
    "/*",
    {
        "compression": CompressOptions.DISABLED,
        "max_payload_length": 1 << 20,
        "idle_timeout": 0,
        "max_backpressure": 16 << 20,
        "upgrade": upgrade,
        "open": opened,
        "message": message,
    },
)


app.listen(AppListenOptions(port=int(sys.argv[1]), host="127.0.0.1"))
# Not app.run(), whose loop for asyncio asks for events without a pause: nothing here needs asyncio.
app.loop.uv_loop.run()
