// Listen for incoming call
socket.on('call:incoming', (data) => {
  const { callId, callerId, callType } = data;
  // Show call UI
});
