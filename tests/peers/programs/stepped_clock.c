/* SPDX-License-Identifier: Apache-2.0
 *
 * LD_PRELOAD: a wall clock of this process's own, off by the seconds that stand in the
 * file STEPPED_CLOCK, so that somebody may set the clock without setting everybody's.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long step(void)
{
	const char *path = getenv("STEPPED_CLOCK");
	char text[24] = "";
	int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;

	if (file < 0)
		return 0;
	if (read(file, text, sizeof(text) - 1) < 0)
		text[0] = 0;
	close(file);
	return atol(text);
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
	long failed = syscall(SYS_clock_gettime, clock, now);

	if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
		now->tv_sec += step();
	return (int)failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
	long failed = syscall(SYS_gettimeofday, now, zone);

	if (!failed)
		now->tv_sec += step();
	return (int)failed;
}

time_t time(time_t *at)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	if (at)
		*at = now.tv_sec;
	return now.tv_sec;
}
