#!/bin/sh
while read -r name; do
    echo "$GREETING, $name!"
done < /hello/names.txt
echo "$(cat /hello/count) greeted"
