# Does what one should not.
kill -9 "$1"
