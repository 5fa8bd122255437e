// Bun's own server. Usage: bun.js PORT
const clients = new Set();
const server = Bun.serve({
  hostname: '127.0.0.1',
  port: Number(process.argv[2]),
  fetch(request, server) {
    const path = new URL(request.url).pathname;
    return server.upgrade(request, { data: { path } }) ? undefined : new Response('no', { status: 400 });
  },
  websocket: {
    idleTimeout: 0,
    perMessageDeflate: false,
    open(socket) {
      clients.add(socket);
      if (socket.data.path === '/ws') socket.subscribe('news');
    },
    message(socket, message) {
      if (socket.data.path === '/echo') socket.send(message);
      else if (socket.data.path === '/publish') server.publish('news', message);
    },
    close(socket) {
      clients.delete(socket);
    },
  },
});
process.on('SIGTERM', () => {
  for (const socket of clients) socket.close(1001);
});
