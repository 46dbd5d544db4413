// Initiate call
socket.emit('call:initiate', {
  recipientId: 'user-456',
  callType: 'video',
  visitId: 'visit-123'
}, (response) => {
  const callId = response.callId;
});
