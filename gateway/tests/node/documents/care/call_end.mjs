// End call
socket.emit('call:end', { callId });
