#!/bin/sh
# What udhcpc does with a lease: address, MTU, default route, classless routes (option 121, or 249), name servers.
case $1 in
bound | renew)
	ip address flush dev "$interface" scope global -tentative
	ip address add "$ip/$mask" dev "$interface"
	[ -n "$mtu" ] && ip link set "$interface" mtu "$mtu"
	# RFC 3442: where classless routes are offered, the router option is ignored.
	set -- ${staticroutes:-$msstaticroutes}
	[ $# -gt 0 ] || for gateway in $router; do ip route replace default via "$gateway" dev "$interface"; done
	while [ $# -ge 2 ]; do
		case $2 in
		0.0.0.0) ip route replace "$1" dev "$interface" ;;
		*) ip route replace "$1" via "$2" dev "$interface" || ip route replace "$1" via "$2" dev "$interface" onlink ;;
		esac
		shift 2
	done
	: >/etc/resolv.conf
	[ -n "$domain" ] && echo "search $domain" >>/etc/resolv.conf
	for server in $dns; do echo "nameserver $server" >>/etc/resolv.conf; done
	env >/etc/lease
	;;
esac
