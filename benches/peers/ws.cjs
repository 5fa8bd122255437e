// npm ws, without compression. Usage: ws.cjs PORT
'use strict';

const { WebSocketServer, WebSocket } = require('ws');

const port = Number(process.argv[2]);
const server = new WebSocketServer({ host: '127.0.0.1', port, backlog: 4096, perMessageDeflate: false });
server.on('connection', (socket, request) => {
  const path = request.url.split('?')[0];
  socket.path = path;
  socket.on('error', () => {});
  if (path === '/echo') {
    socket.on('message', (data, isBinary) => socket.send(data, { binary: isBinary }));
  } else if (path === '/publish') {
    socket.on('message', (data) => {
      for (const client of server.clients) {
        if (client.path === '/ws' && client.readyState === WebSocket.OPEN) {
          client.send(data, { binary: false });
        }
      }
    });
  }
});
process.on('SIGTERM', () => {
  for (const client of server.clients) client.close(1001);
});
