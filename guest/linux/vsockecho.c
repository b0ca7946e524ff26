/* SPDX-License-Identifier: MIT */
/* vsockecho PORT: sends back all that the first program of the host's says, and ends with it. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

static int failed(const char *what)
{
	perror(what);
	return 1;
}

int main(int count, char **arguments)
{
	struct sockaddr_vm place = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY};
	uint64_t total = 0;
	char data[4096];
	ssize_t got;

	if (count != 2) {
		fprintf(stderr, "usage: vsockecho PORT\n");
		return 2;
	}
	place.svm_port = (unsigned int)strtoul(arguments[1], NULL, 10);
	int listener = socket(AF_VSOCK, SOCK_STREAM, 0);

	if (listener < 0)
		return failed("socket");
	if (bind(listener, (struct sockaddr *)&place, sizeof(place)) < 0)
		return failed("bind");
	if (listen(listener, 1) < 0)
		return failed("listen");
	/* Who reads this may connect. */
	printf("listening\n");
	fflush(stdout);
	int host = accept(listener, NULL, NULL);

	if (host < 0)
		return failed("accept");
	while ((got = read(host, data, sizeof(data))) > 0) {
		for (ssize_t sent = 0, now; sent < got; sent += now) {
			now = write(host, data + sent, (size_t)(got - sent));
			if (now < 0)
				return failed("write");
		}
		total += (uint64_t)got;
	}
	if (got < 0)
		return failed("read");
	printf("%llu bytes\n", (unsigned long long)total);
	return 0;
}
