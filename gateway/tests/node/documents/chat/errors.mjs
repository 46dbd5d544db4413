socket.on('error', ({ message }) => {
  console.error('Socket error:', message);
});

socket.on('connect_error', (err) => {
  if (err.message === 'Authentication required') {
    // Redirect to login
  }
  if (err.message === 'Invalid token') {
    // Refresh token and reconnect
  }
});
