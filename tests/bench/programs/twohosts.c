/* SPDX-License-Identifier: Apache-2.0
 *
 * twohosts LEFT RIGHT ADDRESS: the smallest exchange of HTTP between two network namespaces, given
 * by their files. A thread in RIGHT serves at ADDRESS, one in LEFT asks. For each line on stdin,
 * a number of exchanges, it makes a new connection and prints the CPU time of both threads for
 * each exchange, in ns, with what the kernel did for them meanwhile.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static const char request[] = "GET /n/1 HTTP/1.1\r\nHost: a\r\n\r\n";
static const char response[] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
static int listener;

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static int socket_in(const char *space)
{
	int on = 1, room = open(space, O_RDONLY | O_CLOEXEC), made;

	if (room < 0 || setns(room, CLONE_NEWNET))
		fail(space);
	close(room);
	made = socket(AF_INET, SOCK_STREAM, 0);
	if (made < 0 || setsockopt(made, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)))
		fail("socket");
	return made;
}

static void pass(int from, char *room, size_t size)
{
	size_t got = 0;

	while (got < size) {
		ssize_t some = read(from, room, size - got);

		if (some <= 0)
			fail("read");
		got += some;
	}
}

static void *serve(void *unused)
{
	char room[256];
	int one;

	while ((one = accept(listener, 0, 0)) >= 0) {
		while (read(one, room, sizeof(room)) > 0)
			if (write(one, response, sizeof(response) - 1) < 0)
				fail("write");
		close(one);
	}
	return unused;
}

static double cpu_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
	return now.tv_sec * 1e9 + now.tv_nsec;
}

int main(int count, char **words)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(8103) };
	pthread_t server;
	char room[256];
	long exchanges;
	double before;

	if (count != 4 || !inet_aton(words[3], &address.sin_addr))
		return 2;
	listener = socket_in(words[2]);
	if (bind(listener, (struct sockaddr *)&address, sizeof(address)) || listen(listener, 8))
		fail("listen");
	pthread_create(&server, 0, serve, 0);
	printf("ready\n");
	fflush(stdout);
	while (scanf("%ld", &exchanges) == 1) {
		int one = socket_in(words[1]);

		if (connect(one, (struct sockaddr *)&address, sizeof(address)))
			fail("connect");
		before = cpu_ns();
		for (long i = 0; i < exchanges; i++) {
			if (write(one, request, sizeof(request) - 1) < 0)
				fail("write");
			pass(one, room, sizeof(response) - 1);
		}
		printf("%.1f\n", (cpu_ns() - before) / exchanges);
		fflush(stdout);
		close(one);
	}
	return 0;
}
