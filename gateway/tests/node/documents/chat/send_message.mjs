socket.emit('send_message', {
  roomId: 'asteroid-2465633',
  content: 'This asteroid has a high risk score!'
});

socket.on('new_message', (message) => {
  console.log(`${message.user.name}: ${message.content}`);
});
