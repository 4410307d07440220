#!/bin/sh
# QEMU as the lab's libvirt starts it: with 8 KiB of memory more.
#
# QEMU before 9.0 loses writes of emulated processors while it migrates a machine: where the size of the memory is a
# multiple of 256 KiB, it forgets to tell the processors which pages are watched anew (mended by "physmem: Fix migration
# dirty bitmap coherency with TCG memory access"). On a busy computer a guest in ten went on with broken memory.
# Hosts with KVM are not concerned.
memory= before=
for argument; do
	case $argument in
	'{"qom-type":"memory-backend-ram","id":"pc.ram","size":'*)
		memory=${argument##*:}
		memory=${memory%\}}
		;;
	esac
done
for argument; do
	shift
	[ -z "$memory" ] || case $before$argument in
	-m[1-9]*) argument=size=$((memory + 8192))B ;;
	'-object{"qom-type":"memory-backend-ram","id":"pc.ram"'*) argument=${argument%:*}:$((memory + 8192))} ;;
	esac
	before=$argument
	set -- "$@" "$argument"
done
exec "/usr/bin/${0##*/}" "$@"
