// When user starts typing
socket.emit('typing_start', 'asteroid-2465633');

// When user stops typing
socket.emit('typing_stop', 'asteroid-2465633');

// Listen for other users typing
socket.on('user_typing', ({ userId, email }) => {
  console.log(`${email} is typing...`);
});

socket.on('user_stopped_typing', ({ userId }) => {
  // Hide typing indicator
});
