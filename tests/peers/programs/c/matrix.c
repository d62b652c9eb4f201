/* A target program: libmicrohttpd, calling with libcurl. Usage: CALLED=URL matrix HOST:PORT WAY,
 * where WAY is connection (a thread for each), pool (4 threads with a loop each) or loop (one).
 * GET /m/<shape>/<client>/<n> calls CALLED/n/<n>. */
#include <curl/curl.h>
#include <microhttpd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *called;

static size_t swallow(char *bytes, size_t size, size_t count, void *user)
{
	(void)bytes, (void)user;
	return size * count;
}

static int call(const char *n)
{
	static __thread CURL *kept;
	char url[256];
	CURLcode code;

	snprintf(url, sizeof(url), "%s/n/%s", called, n);
	if (!kept)
		kept = curl_easy_init();
	curl_easy_setopt(kept, CURLOPT_URL, url);
	curl_easy_setopt(kept, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(kept, CURLOPT_WRITEFUNCTION, swallow);
	code = curl_easy_perform(kept);
	return code == CURLE_OK;
}

static enum MHD_Result answer(void *user, struct MHD_Connection *connection, const char *url,
			      const char *method, const char *version, const char *data,
			      size_t *size, void **state)
{
	const char *n = strrchr(url, '/') + 1;
	struct MHD_Response *response;
	enum MHD_Result result;
	char text[64] = "ready\n";
	int status = MHD_HTTP_OK;

	(void)user, (void)method, (void)version, (void)data, (void)size, (void)state;
	if (strncmp(url, "/m/", 3) == 0) {
		int calls = strncmp(url, "/m/two/", 7) ? 1 : 2;

		while (calls--)
			if (!call(n))
				status = MHD_HTTP_BAD_GATEWAY;
		snprintf(text, sizeof(text), "n=%s\n", n);
	}
	response = MHD_create_response_from_buffer(strlen(text), text, MHD_RESPMEM_MUST_COPY);
	result = MHD_queue_response(connection, status, response);
	MHD_destroy_response(response);
	return result;
}

int main(int count, char **arguments)
{
	unsigned flags = MHD_USE_INTERNAL_POLLING_THREAD, threads = 0;
	struct MHD_Daemon *daemon;
	sigset_t end;
	int got;

	if (count != 3)
		return 2;
	called = getenv("CALLED");
	curl_global_init(CURL_GLOBAL_ALL);
	if (!strcmp(arguments[2], "connection"))
		flags |= MHD_USE_THREAD_PER_CONNECTION | MHD_USE_POLL;
	else
		flags |= MHD_USE_EPOLL;
	if (!strcmp(arguments[2], "pool"))
		threads = 4;
	daemon = MHD_start_daemon(flags, atoi(strrchr(arguments[1], ':') + 1), NULL, NULL, answer, NULL,
				  MHD_OPTION_THREAD_POOL_SIZE, threads, MHD_OPTION_END);
	if (!daemon)
		return 1;
	sigemptyset(&end);
	sigaddset(&end, SIGTERM);
	sigprocmask(SIG_BLOCK, &end, NULL);
	sigwait(&end, &got);
	MHD_stop_daemon(daemon);
	return 0;
}
