socket.emit('event:name', data, (response) => {
  if (response.success) {
    // Handle success
  } else {
    // Handle error
  }
});
