#!/bin/sh
# Starts Omniboard with MongoDB's address made from the secret.
set -eu
password=$(node -p 'encodeURIComponent(require("fs").readFileSync(process.argv[1], "utf8").trim())' "$MONGO_PASSWORD_FILE")
exec omniboard --mu "mongodb://$MONGO_USER:$password@$MONGO_HOST/sacred?authSource=admin"
