#!/bin/sh
# The guest's first process: bring eth0 up by DHCP and IPv6 autoconfiguration, serve HTTP on port 80 and an echo on
# port 7, and run the commands that come in on the second serial port, one line each: a token, a blank, the command.
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts
mount -t devpts pts /dev/pts
modprobe virtio_pci
modprobe virtio_net
for word in $(cat /proc/cmdline); do
	case $word in name=*) hostname "${word#name=}" ;; esac
done
ip link set lo up
ip link set eth0 up
(while :; do
	udhcpc -i eth0 -f -s /etc/dhcp -t 8 -T 1 -O 121 -O 249 -O 26 -S >/dev/null 2>&1
	sleep 1
done) &
hostname >/www/index.html
httpd -p 80 -h /www
talk serve 7 &
stty -F /dev/ttyS1 raw -echo
exec 3<>/dev/ttyS1
echo "guest obeys" >/dev/ttyS0
while :; do
	read -r token line <&3 || continue
	echo "<<$token<<" >&3
	sh -c "$line" >&3 2>&1 </dev/null
	echo ">>$token $?>>" >&3
done
