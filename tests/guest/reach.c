/* In place of the compiler: reports its reach on stderr, and fails. */
#include <dirent.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static int runs(const char *program)
{
	int status;
	pid_t pid = fork();
	if (pid == 0) {
		execl(program, program, (char *)0);
		_exit(127);
	}
	return pid > 0 && waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) != 127;
}

static int connects(const char *name)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	memcpy(to.sun_path + 1, name, strlen(name));
	return connect(fd, (struct sockaddr *)&to, offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name)) == 0;
}

int main(void)
{
	int found = 0;
	fprintf(stderr, "reached:");
#define TRY(word, attempt) if (attempt) { found = 1; fprintf(stderr, " " word); }
	TRY("read", open("/etc/elsewhere", O_RDONLY) >= 0)
	TRY("list", opendir("/etc") != 0)
	TRY("write", open("/tmp/reach", O_WRONLY | O_CREAT, 0666) >= 0)
	TRY("execute", runs("/usr/bin/true"))
	TRY("connect", connects("armorer-reach"))
	fprintf(stderr, found ? "\n" : " nothing\n");
	return 1;
}
