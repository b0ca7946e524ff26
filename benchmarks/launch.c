/* SPDX-License-Identifier: MIT */
/*
 * launch OUT PROGRAM [ARGUMENT...]: runs PROGRAM with /dev/null as standard input and the file OUT
 * as standard output; prints what it cost.
 *
 * A program of its own, because Linux counts the memory of the process that calls exec into
 * ru_maxrss of the program executed: from a Python process that would be tens of megabytes.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double seconds_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static double seconds_of(struct timeval time)
{
    return (double)time.tv_sec + (double)time.tv_usec / 1e6;
}

static void become(char **argv)
{
    int in = open("/dev/null", O_RDONLY);
    int out = open(argv[1], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (in < 0 || out < 0 || dup2(in, 0) < 0 || dup2(out, 1) < 0) {
        perror(argv[1]);
        _exit(127);
    }
    if (in > 2)
        close(in);
    execvp(argv[2], argv + 2);
    perror(argv[2]);
    _exit(127);
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "usage: launch OUT PROGRAM [ARGUMENT...]\n");
        return 2;
    }
    double started = seconds_now();
    pid_t child = vfork();
    if (child == 0)
        become(argv);
    int status;
    struct rusage usage;
    if (child < 0 || wait4(child, &status, 0, &usage) != child) {
        perror("launch");
        return 1;
    }
    double ended = seconds_now();
    printf("{\"started\": %.9f, \"ended\": %.9f, \"status\": %d, \"signal\": %d, \"user\": %.6f, "
           "\"system\": %.6f, \"max_rss_kib\": %ld}\n",
           started, ended, WIFEXITED(status) ? WEXITSTATUS(status) : -1,
           WIFSIGNALED(status) ? WTERMSIG(status) : 0, seconds_of(usage.ru_utime),
           seconds_of(usage.ru_stime), usage.ru_maxrss);
    return 0;
}
