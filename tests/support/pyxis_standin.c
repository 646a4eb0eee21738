/*
 * A stand-in for pyxis in the tests: the same option, with the same rules (a second, different value is refused), the
 * same contract with an importer, which the first task of a step runs, and tasks whose root is the image; here by
 * unsquashfs and chroot.
 *
 *   required DIRECTORY/pyxis_standin.so [importer=PROGRAM]
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <slurm/spank.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

SPANK_PLUGIN(pyxis, 1)

#define LAST_STEP 0xfffffff0U /* above are the batch script and the like */

static char *image, **environment;
static char importer[PATH_MAX];

/* What the tasks of a step on this node share. */
static struct {
	pthread_mutex_t mutex;
	int tasks, failed;
	char file[PATH_MAX], root[PATH_MAX];
} *made;

static int set_image(int val, const char *text, int remote)
{
	if (image && strcmp(image, text) != 0) {
		slurm_error("pyxis: --container-image specified multiple times");
		return -1;
	}
	free(image);
	image = strdup(text);
	return 0;
}

/* Taken, and nothing else: tasks have a directory of their own. */
static int ignore(int val, const char *text, int remote)
{
	return 0;
}

static struct spank_option options[] = {
	{"container-image", "[USER@][REGISTRY#]IMAGE[:TAG]|PATH", "[pyxis] the image to use for the container filesystem.", 1,
	 0, set_image},
	{"container-mounts", "SRC:DST[:FLAGS][,SRC:DST...]", "[pyxis] bind mount[s] inside the container.", 1, 0, ignore},
	{"container-workdir", "PATH", "[pyxis] working directory inside the container.", 1, 0, ignore},
};

int slurm_spank_init(spank_t sp, int ac, char **av)
{
	for (int i = 0; i < ac; i++)
		if (strncmp(av[i], "importer=", 9) == 0)
			snprintf(importer, sizeof(importer), "%s", av[i] + 9);
	for (size_t i = 0; i < sizeof(options) / sizeof(*options); i++)
		if (spank_option_register(sp, &options[i]) != ESPANK_SUCCESS)
			return -1;
	return 0;
}

/* What an importer must not get of the job's environment. */
static const char *const denied[] = {
	"PATH", "LD_LIBRARY_PATH", "LD_PRELOAD", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_TASK_PID", "PMIX_RANK", "PMI_FD",
	"ENROOT_LIBRARY_PATH", "ENROOT_SYSCONF_PATH", "ENROOT_RUNTIME_PATH", "ENROOT_CACHE_PATH", "ENROOT_DATA_PATH",
	"ENROOT_TEMP_PATH", "ENROOT_ZSTD_OPTIONS", "ENROOT_TRANSFER_RETRIES", "ENROOT_CONNECT_TIMEOUT",
	"ENROOT_MAX_CONNECTIONS", "ENROOT_ALLOW_HTTP", NULL
};

/* The job's environment, less that, in place of slurmstepd's. */
static void set_environment(void)
{
	char *path = getenv("PATH") ? strdup(getenv("PATH")) : NULL;
	int i;

	clearenv();
	for (char **each = environment; each && *each; each++) {
		size_t length = strcspn(*each, "=");
		for (i = 0; denied[i]; i++)
			if (strlen(denied[i]) == length && strncmp(*each, denied[i], length) == 0)
				break;
		if (!denied[i])
			putenv(*each);
	}
	if (path)
		setenv("PATH", path, 1);
	setenv("PYXIS_RUNTIME_PATH", "/run/pyxis", 1);
	setenv("PYXIS_VERSION", "0.24.0", 1);
}

/* What a program that failed has said. */
static void print_log(int log)
{
	char line[4096];
	FILE *file = fdopen(log, "r");

	rewind(file);
	slurm_error("pyxis: printing importer log file:");
	while (fgets(line, sizeof(line), file)) {
		line[strcspn(line, "\n")] = '\0';
		slurm_error("pyxis:     %s", line);
	}
	fclose(file);
}

/*
 * Run a command as the job's user; of its output the first line, if wanted, after which nobody reads. stderr is a file in
 * memory, shown if the command fails. As with pyxis, the command has the pipe's ends besides.
 */
static int run(char *const words[], char *line, size_t size)
{
	int pipes[2], status, log = memfd_create("importer-log", MFD_CLOEXEC);
	pid_t child;

	if (log < 0 || pipe(pipes) < 0 || (child = fork()) < 0)
		return -1;
	if (child == 0) {
		dup2(open("/dev/null", O_RDONLY), STDIN_FILENO);
		dup2(line ? pipes[1] : log, STDOUT_FILENO);
		dup2(log, STDERR_FILENO);
		if (setregid(getegid(), getegid()) < 0 || setreuid(geteuid(), geteuid()) < 0)
			_exit(126);
		set_environment();
		execvp(words[0], words);
		_exit(127);
	}
	close(pipes[1]);
	FILE *output = fdopen(pipes[0], "r");
	if (line && fgets(line, size, output))
		line[strcspn(line, "\n")] = '\0';
	fclose(output);
	if (waitpid(child, &status, 0) == child && status == 0) {
		close(log);
		return 0;
	}
	slurm_error("pyxis: %s failed with status %#x", words[0], status);
	print_log(log);
	return -1;
}

/* Twice, as pyxis does: when there is a container, and when the step ends, for the first may not have been reached. */
static void release(void)
{
	if (importer[0] && image && image[0] != '.' && image[0] != '/')
		run((char *[]){importer, "release", NULL}, NULL, 0);
}

int slurm_spank_user_init(spank_t sp, int ac, char **av)
{
	char **given;
	size_t n = 0;
	pthread_mutexattr_t attributes;

	if (!image)
		return 0;
	spank_get_item(sp, S_JOB_ENV, &given);
	while (given[n])
		n++;
	environment = calloc(n + 1, sizeof(*environment)); /* Slurm's own does not last */
	while (n--)
		environment[n] = strdup(given[n]);
	made = mmap(NULL, sizeof(*made), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pthread_mutexattr_init(&attributes);
	pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
	return made == MAP_FAILED || pthread_mutex_init(&made->mutex, &attributes) ? -1 : 0;
}

/* By the first task of a step on this node: the container, which here is a directory. */
static int make_container(spank_t sp)
{
	char uri[PATH_MAX], inside[2 * PATH_MAX];
	uint32_t step = 0;

	spank_get_item(sp, S_JOB_STEPID, &step);
	if (image[0] == '.' || image[0] == '/') {
		snprintf(made->file, sizeof(made->file), "%s", image);
	} else {
		snprintf(uri, sizeof(uri), "%s%s", strstr(image, "://") ? "" : "docker://", image);
		if (!importer[0] || run((char *[]){importer, "get", uri, NULL}, made->file, sizeof(made->file)))
			return -1;
	}
	if (step >= LAST_STEP)
		return 0; /* a batch script stays outside */
	snprintf(made->root, sizeof(made->root), "/var/tmp/pyxis-standin.XXXXXX");
	if (!mkdtemp(made->root) ||
	    run((char *[]){"unsquashfs", "-f", "-quiet", "-no-progress", "-d", made->root, made->file, NULL}, NULL, 0))
		return -1;
	if (spank_getenv(sp, "SLURM_SUBMIT_DIR", uri, sizeof(uri)) == ESPANK_SUCCESS) { /* where the task is put */
		snprintf(inside, sizeof(inside), "%s/%s", made->root, uri);
		run((char *[]){"mkdir", "-p", inside, NULL}, NULL, 0);
	}
	return 0;
}

/* In each task, as the job's user. */
int slurm_spank_task_init(spank_t sp, int ac, char **av)
{
	if (!image)
		return 0;
	pthread_mutex_lock(&made->mutex);
	if (made->tasks++ == 0) {
		made->failed = make_container(sp);
		if (made->failed)
			slurm_error("pyxis: no container: %s", image);
		else
			release();
	}
	pthread_mutex_unlock(&made->mutex);
	spank_setenv(sp, "STANDIN_IMAGE", made->file, 1);
	if (!made->failed && made->root[0] && (unshare(CLONE_NEWUSER) < 0 || chroot(made->root) < 0 || chdir("/") < 0))
		return -1;
	return made->failed;
}

int slurm_spank_exit(spank_t sp, int ac, char **av)
{
	if (spank_context() == S_CTX_REMOTE && made) {
		release();
		if (made->root[0])
			run((char *[]){"rm", "-rf", made->root, NULL}, NULL, 0);
	}
	return 0;
}
