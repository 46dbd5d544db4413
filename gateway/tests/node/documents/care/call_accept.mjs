// Accept call
socket.emit('call:accept', { callId }, (response) => {
  // Start WebRTC connection
});
