socket.emit('message:send', {
  visitId: 'visit-123',
  message: 'Hello, doctor!'
}, (response) => {
  console.log('Message ID:', response.message.id);
});

// Listen for messages
socket.on('message:new', (data) => {
  console.log('New message:', data.message);
});
