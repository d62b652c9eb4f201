/* A client on musl and an OpenSSL that was built with it: `musl PORT COUNT`. Waits for a line, asks
 * for GET /n/1 to /n/COUNT over one connection, writes `done` and waits for a line again. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

void *TLS_client_method(void);
void *SSL_CTX_new(const void *method);
void *SSL_new(void *context);
int SSL_set_fd(void *ssl, int fd);
int SSL_connect(void *ssl);
int SSL_write(void *ssl, const void *buffer, int length);
int SSL_read(void *ssl, void *buffer, int length);
int SSL_shutdown(void *ssl);
void SSL_free(void *ssl);

static void expect(int good, const char *what)
{
	if (good)
		return;
	fprintf(stderr, "%s failed\n", what);
	exit(1);
}

static void ask(void *ssl, int n)
{
	char text[4096];
	int length = snprintf(text, sizeof(text), "GET /n/%d HTTP/1.1\r\nhost: localhost\r\n\r\n", n);
	int have = 0;

	expect(SSL_write(ssl, text, length) == length, "SSL_write");
	for (text[0] = 0; !strstr(text, "\r\n\r\nfine"); text[have] = 0) {
		length = SSL_read(ssl, text + have, (int)sizeof(text) - 1 - have);
		expect(length > 0, "SSL_read");
		have += length;
	}
}

int main(int argc, char **argv)
{
	struct sockaddr_in to = { .sin_family = AF_INET };
	char line[16];
	void *ssl;
	int fd;

	expect(argc == 3, "reading the command line");
	to.sin_port = htons((unsigned short)atoi(argv[1]));
	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	expect(fgets(line, sizeof(line), stdin) != NULL, "waiting for a line");
	fd = socket(AF_INET, SOCK_STREAM, 0);
	expect(!connect(fd, (struct sockaddr *)&to, sizeof(to)), "connect");
	ssl = SSL_new(SSL_CTX_new(TLS_client_method()));
	expect(SSL_set_fd(ssl, fd) == 1 && SSL_connect(ssl) == 1, "SSL_connect");
	for (int n = 1; n <= atoi(argv[2]); n++)
		ask(ssl, n);
	puts("done");
	fflush(stdout);
	expect(fgets(line, sizeof(line), stdin) != NULL, "waiting for a line");
	SSL_shutdown(ssl);
	SSL_free(ssl);
	return 0;
}
