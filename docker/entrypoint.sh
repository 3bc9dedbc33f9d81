#!/bin/sh
# Runs the command, with MongoDB's address made from the secret where there is one. The password is in no image, no
# argument and no compose file.
set -eu
secret=${MONGO_PASSWORD_FILE:-}
if [ -n "$secret" ] && [ -z "${SACRED_MONGO_URL:-}" ]; then
    password=$(python -c 'import sys, urllib.parse as u; print(u.quote(open(sys.argv[1]).read().strip(), safe=""))' "$secret")
    export SACRED_MONGO_URL="mongodb://$MONGO_USER:$password@$MONGO_HOST/sacred?authSource=admin"
fi
exec "$@"
