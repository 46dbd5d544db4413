import io from 'socket.io-client';

const socket = io('http://your-api-url:5000/emergencies', {
  auth: {
    token: userToken
  },
  transports: ['websocket']
});

// Similar event handlers as above
