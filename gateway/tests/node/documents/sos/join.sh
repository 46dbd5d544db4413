curl -X POST http://bff-citizen:3000/api/sos/507f1f77bcf86cd799439011/participants/join \
  -H "Authorization: Bearer eyJhbGc..." \
  -H "Content-Type: application/json" \
  -d '{"userType": "citizen"}'
