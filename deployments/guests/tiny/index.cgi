#!/bin/sh
# What the guest says of itself at http://<address>/, made anew for every request.
printf 'Content-Type: text/plain\r\n\r\n'
echo "hostname=$(hostname)"
/usr/lib/tiny/addresses
echo "uptime=$(cut -d' ' -f1 /proc/uptime)"
echo "boot_id=$(cat /proc/sys/kernel/random/boot_id)"
echo "instance_id=$(awk -F'\t' '$1 == "instance-id" { print $2 }' /run/seed/meta-data)"
