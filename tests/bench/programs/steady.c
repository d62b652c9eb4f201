/* SPDX-License-Identifier: Apache-2.0
 *
 * steady PORT CONNECTIONS RATE COUNT: COUNT GET requests to 127.0.0.1:PORT at RATE a second over
 * kept connections, one at a time on each. Prints requests, seconds, p50_ms and p99_ms as JSON.
 *
 * A request has a time at which it is due. Its latency counts from then, so a server that holds
 * everything up is seen to (no coordinated omission). Ends with 1 at any failure.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000ll
#define MOST_CONNECTIONS 1024
#define TURN_NS 500000 /* requests that fall due meanwhile go out together */

static const char REQUEST[] = "GET /n/1 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";

static int idle[MOST_CONNECTIONS], idle_count;
static int64_t due_of[1 << 16];
static int64_t *latencies;

static int64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * SECOND + now.tv_nsec;
}

static void fail(const char *what)
{
	fprintf(stderr, "steady: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void open_connections(int epoll, int port, int count)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(port) };
	int on = 1;

	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	for (int i = 0; i < count; i++) {
		int fd = socket(AF_INET, SOCK_STREAM, 0);
		struct epoll_event event = { .events = EPOLLIN, .data.fd = fd };

		if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof(to)))
			fail("connect");
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
		epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
		idle[idle_count++] = fd;
	}
}

static void send_request(int fd, int64_t due)
{
	due_of[fd] = due;
	if (write(fd, REQUEST, sizeof(REQUEST) - 1) != sizeof(REQUEST) - 1)
		fail("write");
}

/* The answers are small: each comes in one piece. */
static void take_answer(int fd, long number)
{
	static const char ok[] = "HTTP/1.1 200";
	char answer[4096];
	ssize_t length = read(fd, answer, sizeof(answer));

	if (length < (ssize_t)sizeof(ok) || memcmp(answer, ok, sizeof(ok) - 1))
		fail("the answer is no 200");
	latencies[number] = now_ns() - due_of[fd];
	idle[idle_count++] = fd;
}

static int by_size(const void *a, const void *b)
{
	int64_t left = *(const int64_t *)a, right = *(const int64_t *)b;

	return (left > right) - (left < right);
}

int main(int argc, char **argv)
{
	struct epoll_event events[256];
	int epoll = epoll_create1(0);
	long count, sent = 0, done = 0;
	int64_t begin;
	double rate;

	if (argc != 5 || atoi(argv[2]) > MOST_CONNECTIONS)
		fail("usage: steady PORT CONNECTIONS RATE COUNT");
	rate = atof(argv[3]);
	count = atol(argv[4]);
	latencies = calloc(count, sizeof(*latencies));
	open_connections(epoll, atoi(argv[1]), atoi(argv[2]));
	begin = now_ns();
	while (done < count) {
		struct timespec wait = { 0, TURN_NS };
		int64_t due, turn = now_ns();
		int ready;

		while (sent < count && idle_count &&
		       (due = begin + (int64_t)(sent * SECOND / rate)) <= turn) {
			send_request(idle[--idle_count], due);
			sent++;
		}
		ready = epoll_pwait2(epoll, events, 256, &wait, NULL);
		for (int i = 0; i < ready; i++)
			take_answer(events[i].data.fd, done++);
	}
	qsort(latencies, count, sizeof(*latencies), by_size);
	printf("{\"requests\": %ld, \"seconds\": %.6f, \"p50_ms\": %.4f, \"p99_ms\": %.4f}\n", count,
	       (now_ns() - begin) / 1e9, latencies[count / 2] / 1e6, latencies[count * 99 / 100] / 1e6);
	return 0;
}
