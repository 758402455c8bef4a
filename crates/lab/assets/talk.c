/* The guest's traffic: busybox has no UDP of its own, and as a static program its wget dies of looking up what `http` is.
   talk serve PORT                      echoes what TCP (once) and UDP say, over IPv4 and IPv6
   talk tcp|udp ADDRESS PORT TEXT       says TEXT and prints the answer
   talk http ADDRESS PORT PATH          gets a page and prints its body
   The latter end with 0 answered, 1 refused, 2 unreachable, 3 silence. */
#define _GNU_SOURCE
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

enum { ANSWERED, REFUSED, UNREACHABLE, SILENT, CONFUSED };
static const struct timeval PATIENCE = {3, 0};
static char buffer[65536];

static int judged(void) {
	switch (errno) {
	case ECONNREFUSED: case ECONNRESET: return REFUSED;
	case EHOSTUNREACH: case ENETUNREACH: return UNREACHABLE;
	case EAGAIN: case EINPROGRESS: case ETIMEDOUT: return SILENT;
	default: perror("talk"); return CONFUSED;
	}
}

static int listening(int kind, int port) {
	struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_port = htons(port), .sin6_addr = in6addr_any};
	int one = 1, s = socket(AF_INET6, kind, 0);
	setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (s < 0 || bind(s, (struct sockaddr *)&any, sizeof any) < 0) exit(judged());
	if (kind == SOCK_STREAM) listen(s, 64);
	return s;
}

static void echo(int stream) {
	ssize_t n;
	if (fork()) { close(stream); return; }
	n = read(stream, buffer, sizeof buffer);
	_exit(n > 0 && write(stream, buffer, n) == n ? 0 : 1);
}

static void serve(int port) {
	struct pollfd both[] = {{listening(SOCK_STREAM, port), POLLIN, 0}, {listening(SOCK_DGRAM, port), POLLIN, 0}};
	signal(SIGCHLD, SIG_IGN);
	for (;;) {
		poll(both, 2, -1);
		if (both[0].revents) {
			int stream = accept(both[0].fd, 0, 0);
			if (stream >= 0) echo(stream);
		}
		if (both[1].revents) {
			struct sockaddr_in6 from;
			socklen_t size = sizeof from;
			ssize_t n = recvfrom(both[1].fd, buffer, sizeof buffer, 0, (struct sockaddr *)&from, &size);
			if (n >= 0) sendto(both[1].fd, buffer, n, 0, (struct sockaddr *)&from, size);
		}
	}
}

/* What comes after `skip` in the answer is printed. */
static int ask(int kind, const char *address, const char *port, const char *text, const char *skip) {
	struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV, .ai_socktype = kind}, *to;
	if (getaddrinfo(address, port, &hints, &to)) return CONFUSED;
	int s = socket(to->ai_family, kind, 0);
	setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &PATIENCE, sizeof PATIENCE);
	setsockopt(s, SOL_SOCKET, SO_SNDTIMEO, &PATIENCE, sizeof PATIENCE);
	if (connect(s, to->ai_addr, to->ai_addrlen) < 0) return judged();
	if (write(s, text, strlen(text)) < 0) return judged();
	size_t heard = 0;
	for (;;) {
		ssize_t n = read(s, buffer + heard, sizeof buffer - heard);
		if (n < 0 && !heard) return judged();
		if (n > 0) heard += n;
		if (n <= 0 || kind == SOCK_DGRAM) break;
	}
	char *rest = memmem(buffer, heard, skip, strlen(skip));
	if (!rest) return CONFUSED;
	rest += strlen(skip);
	fwrite(rest, 1, buffer + heard - rest, stdout);
	return ANSWERED;
}

static int get(const char *address, const char *port, const char *path) {
	char request[1024];
	snprintf(request, sizeof request, "GET %s HTTP/1.0\r\nHost: guest\r\n\r\n", path);
	return ask(SOCK_STREAM, address, port, request, "\r\n\r\n");
}

int main(int count, char **words) {
	if (count == 3 && !strcmp(words[1], "serve")) serve(atoi(words[2]));
	if (count == 5 && !strcmp(words[1], "tcp")) return ask(SOCK_STREAM, words[2], words[3], words[4], "");
	if (count == 5 && !strcmp(words[1], "udp")) return ask(SOCK_DGRAM, words[2], words[3], words[4], "");
	if (count == 5 && !strcmp(words[1], "http")) return get(words[2], words[3], words[4]);
	fputs("talk serve PORT | talk tcp|udp ADDRESS PORT TEXT | talk http ADDRESS PORT PATH\n", stderr);
	return CONFUSED;
}
