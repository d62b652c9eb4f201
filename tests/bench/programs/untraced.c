/* SPDX-License-Identifier: Apache-2.0
 *
 * untraced KIND SECONDS: what a process that nobody traces can do. KIND is getppid, tcp or unix:
 * the system call alone, or 64 bytes written and read over a connected pair, by one thread.
 * Prints the nanoseconds of one turn: the least of many short stretches, since whatever else
 * the machine does can only add to it, and the median.
 */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SIZE 64
#define STRETCHES 100000

static int pair[2];

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static void tcp_pair(void)
{
	struct sockaddr_in address = { .sin_family = AF_INET };
	socklen_t length = sizeof(address);
	int listener = socket(AF_INET, SOCK_STREAM, 0), on = 1;

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (bind(listener, (struct sockaddr *)&address, length) || listen(listener, 1) ||
	    getsockname(listener, (struct sockaddr *)&address, &length))
		fail("listen");
	pair[0] = socket(AF_INET, SOCK_STREAM, 0);
	if (connect(pair[0], (struct sockaddr *)&address, length))
		fail("connect");
	pair[1] = accept(listener, NULL, NULL);
	setsockopt(pair[0], IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

static void turn_getppid(void)
{
	syscall(SYS_getppid);
}

static void turn_pair(void)
{
	static char bytes[SIZE];

	if (write(pair[0], bytes, SIZE) != SIZE || read(pair[1], bytes, SIZE) != SIZE)
		fail("write and read");
}

static int64_t cpu_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	return now.tv_sec * 1000000000ll + now.tv_nsec;
}

static int by_size(const void *a, const void *b)
{
	double left = *(const double *)a, right = *(const double *)b;

	return (left > right) - (left < right);
}

int main(int argc, char **argv)
{
	void (*turn)(void) = turn_pair;
	static double each[STRETCHES];
	int stretches = 0, turns = 200;
	int64_t until;

	if (argc != 3)
		return 2;
	if (!strcmp(argv[1], "getppid")) {
		turn = turn_getppid;
		turns = 2000;
	} else if (!strcmp(argv[1], "tcp")) {
		tcp_pair();
	} else if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair)) {
		fail("socketpair");
	}
	until = cpu_ns() + (int64_t)(atof(argv[2]) * 1e9);
	while (stretches < STRETCHES && cpu_ns() < until) {
		int64_t begin = cpu_ns();

		for (int i = 0; i < turns; i++)
			turn();
		each[stretches++] = (double)(cpu_ns() - begin) / turns;
	}
	qsort(each, stretches, sizeof(each[0]), by_size);
	printf("%.2f %.2f\n", each[0], each[stretches / 2]);
	return 0;
}
