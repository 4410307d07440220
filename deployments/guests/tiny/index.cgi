#!/bin/sh
# What the guest says of itself at http://<address>/, made anew for every request. By the shell alone where it can:
# each program started costs an emulated processor some ms, and it may be asked ten times a second.
read -r name </proc/sys/kernel/hostname
read -r uptime _ </proc/uptime
read -r boot_id </proc/sys/kernel/random/boot_id
instance_id=
[ -f /run/seed/meta-data ] && while IFS='	' read -r key value; do
	[ "$key" = instance-id ] && instance_id=$value
done </run/seed/meta-data
printf 'Content-Type: text/plain\r\n\r\n'
echo "hostname=$name"
. /usr/lib/tiny/addresses
echo "uptime=$uptime
boot_id=$boot_id
instance_id=$instance_id"
