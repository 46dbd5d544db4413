curl -X GET http://bff-citizen:3000/api/sos/507f1f77bcf86cd799439011/participants/history \
  -H "Authorization: Bearer eyJhbGc..."
