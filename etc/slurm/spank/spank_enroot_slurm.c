/*
 * spank_enroot_slurm: a job or a step asks for an image, and its tasks learn where it is.
 *
 *   optional spank_enroot_slurm.so [option=NAME] [helper=FILE] [run_path=DIRECTORY]
 *
 *   option    the option's name: enroot-image; container-image may be had where there is no pyxis
 *   helper    what a node runs, as the job's user, to get an image: /usr/libexec/enroot-slurm/step
 *   run_path  the site's setting of this name, if it is not /run/enroot-slurm
 *
 * Where it is submitted, it lets the helper look at the text and hands it to the prolog, as SPANK_ENROOT_IMAGE. On a node
 * it runs the helper once per step, not once per task, and puts what that finds into the tasks' environment; or it ends the
 * tasks. However the helper ends, if there is no image somebody has said why.
 * Anything that could be written in Python is. There is no slurm_spank_job_prolog (Slurm would then take the variables of
 * other plug-ins' options from the prolog), and nothing but slurm_spank_task_init fails on a node: that alone costs the job
 * and not the node. See docs/slurm.md, and spank(8).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <regex.h>
#include <signal.h>
#include <slurm/slurm.h>
#include <slurm/spank.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

SPANK_PLUGIN(enroot_slurm, 1)

#define MAX_TEXT 8191 /* of an option; request.py takes more, but not from here */
#define NO_IMAGE 78    /* a task's status; EX_CONFIG of sysexits.h */
#define LATER 75       /* the helper's: it would have to wait; EX_TEMPFAIL */
#define PYXIS 76       /* the helper's: pyxis' importer waits, and there is something to tell meanwhile */
#define WRONG 2        /* the helper's: the text is not right */
#define REFUSED 4      /* the helper's: the image may not be used here */
#define NOW_SECONDS 20 /* in which the helper must have looked */
#define VARIABLE "ENROOT_IMAGE"

static char option_name[64] = "enroot-image";
static char helper[PATH_MAX] = "/usr/libexec/enroot-slurm/step";
static char run_path[PATH_MAX] = "/run/enroot-slurm";
static char image[MAX_TEXT + 1]; /* what is asked for */
static int handed_over;          /* where it is submitted: whether the first component is done */
static int outcome;              /* on a node, of the helper; 0: all is well */

static int matches(const char *text, const char *pattern)
{
	regex_t regex;
	int found;

	if (regcomp(&regex, pattern, REG_EXTENDED | REG_NOSUB))
		return 1; /* no memory: the node looks again */
	found = !regexec(&regex, text, 0, NULL, 0);
	regfree(&regex);
	return found;
}

/*
 * What is wrong with the reference, if that must not wait for the helper, which may be missing where jobs are submitted: a
 * '#' that sbatch took for a comment, and a password, which would be in Slurm's records. enroot_slurm/oci/reference.py has
 * the grammar.
 */
static const char *wrong(const char *reference)
{
	const char *name = reference, *at = strrchr(reference, '@'), *colon;

	if (*name == '/' || !strncmp(name, "./", 2) || !strncmp(name, "../", 3))
		return NULL; /* a file */
	if (!strncmp(name, "docker://", 9))
		name += 9;
	/* In no registry: a file, which the job's user reads on the nodes, or an image of a daemon. */
	if (matches(name, "^(docker-archive|oci-archive|oci):/") || matches(name, "^(dockerd|podman)://[A-Za-z0-9]"))
		return NULL;
	/* A digest, right or wrong: the helper knows. */
	if (at && matches(at, "^@(sha[0-9]+|md5):[^/]*$"))
		at = memrchr(reference, '@', at - reference);
	colon = at ? memchr(name, ':', at > name ? at - name : 0) : NULL;
	if (colon)
		return "a login must not hold a password, which everyone could see: keep it in your .credentials file";
	if (at)
		name = at + 1;
	if (strchr(name, '#') && strchr(name, '#') > name && strchr(name, '#')[-1] == '\\')
		return "there is a backslash before the #: write REGISTRY/IMAGE, which needs none";
	/* Docker Hub has no image of its own with such a name. */
	if (!*name || matches(name, "^([^/#:]*\\.[^/#:]*|localhost)(:[^/#]*)?[/#]?$"))
		return "this is a registry without an image; in an #SBATCH line, a '#' cuts off the rest: write REGISTRY/IMAGE";
	return NULL;
}

static int run_helper(spank_t sp, const char *word, unsigned seconds, int quiet);

/* Say what is wrong with the option's text, if anything is: see request.py for its grammar. 0: nothing. */
static int check(spank_t sp, const char *text)
{
	char words[MAX_TEXT + 1], *rest, *word;
	const char *why = NULL;
	int status;

	if (!text || !*text || strlen(text) > MAX_TEXT) {
		slurm_error("enroot-slurm: --%s: expected 1 to %d characters", option_name, MAX_TEXT);
		return -1;
	}
	strcpy(words, text);
	for (word = words; *word; word++)
		if (*word < ' ' || *word > '~') {
			slurm_error("enroot-slurm: --%s: an image reference is of printable ASCII characters", option_name);
			return -1;
		}
	for (word = strtok_r(words, " ", &rest); word && !why; word = strtok_r(NULL, " ", &rest)) {
		if (!strncmp(word, "arch=", 5) || !strncmp(word, "name=", 5))
			continue;
		why = wrong(word + (strncmp(word, "image=", 6) ? 0 : 6));
		if (why)
			slurm_error("enroot-slurm: --%s=%.200s: %s", option_name, strrchr(word, '@') ? strrchr(word, '@') + 1 : word, why);
	}
	if (why)
		return -1;
	status = run_helper(sp, "--check", NOW_SECONDS, 0);
	return status == WRONG || status == REFUSED ? -1 : 0;
}

static int set_image(int val, const char *text, int remote)
{
	char before[sizeof(image)];

	(void)val;
	memcpy(before, image, sizeof(before));
	snprintf(image, sizeof(image), "%s", text ? text : "");
	if (!remote && check(NULL, text))
		return -1;
	if (!remote && handed_over && strcmp(text, before)) { /* Slurm would give one of them to all */
		slurm_error("enroot-slurm: --%s: all components of a heterogeneous job have the same image", option_name);
		return -1;
	}
	return 0;
}

static struct spank_option option = {
	option_name, "IMAGE", "[enroot-slurm] image that the job's nodes get before its tasks start: docker://REGISTRY/IMAGE:TAG",
	1, 0, set_image
};

int slurm_spank_init(spank_t sp, int ac, char **av)
{
	spank_context_t context = spank_context();

	for (int i = 0; i < ac; i++) {
		if (!strncmp(av[i], "option=", 7))
			snprintf(option_name, sizeof(option_name), "%s", av[i] + 7);
		else if (!strncmp(av[i], "helper=", 7))
			snprintf(helper, sizeof(helper), "%s", av[i] + 7);
		else if (!strncmp(av[i], "run_path=", 9))
			snprintf(run_path, sizeof(run_path), "%s", av[i] + 9);
		else
			slurm_error("enroot-slurm: unknown word in plugstack.conf: %s", av[i]);
	}
	if (context == S_CTX_LOCAL || context == S_CTX_ALLOCATOR || context == S_CTX_REMOTE)
		if (spank_option_register(sp, &option) != ESPANK_SUCCESS)
			slurm_error("enroot-slurm: there is no option --%s", option_name);
	return 0;
}

/* Where it is submitted. */
int slurm_spank_init_post_opt(spank_t sp, int ac, char **av)
{
	(void)ac, (void)av;
	if (spank_context() == S_CTX_REMOTE || !image[0])
		return 0;
	handed_over = 1;
	if (spank_job_control_setenv(sp, VARIABLE, image, 1) == ESPANK_SUCCESS)
		return 0;
	slurm_error("enroot-slurm: the image can't be handed to the job's nodes");
	return -1;
}

/* The helper's environment: the job's, but for what would change how programs are loaded. */
static char **helper_environment(spank_t sp)
{
	static char job_id[48], count[48], place[48];
	uint32_t id = 0, restart = 0, node = 0;
	char **job = NULL, **made;
	size_t n = 0, size = 4;

	if (!sp) { /* where it is submitted, which is the user's own */
		job = environ;
	} else {
		spank_get_item(sp, S_JOB_ID, &id);
		spank_get_item(sp, S_SLURM_RESTART_COUNT, &restart);
		spank_get_item(sp, S_JOB_NODEID, &node);
		spank_get_item(sp, S_JOB_ENV, &job);
	}
	for (char **each = job; each && *each; each++)
		size++;
	made = calloc(size, sizeof(*made));
	if (!made)
		return NULL;
	for (char **each = job; each && *each; each++)
		if (strncmp(*each, "LD_", 3) && strncmp(*each, "SLURM_JOB_ID=", 13) &&
		    strncmp(*each, "SLURM_JOB_RESTART_COUNT=", 24) && strncmp(*each, "SLURM_NODEID=", 13))
			made[n++] = *each;
	if (!sp)
		return made;
	snprintf(job_id, sizeof(job_id), "SLURM_JOB_ID=%u", id);
	snprintf(count, sizeof(count), "SLURM_JOB_RESTART_COUNT=%u", restart);
	snprintf(place, sizeof(place), "SLURM_NODEID=%u", node);
	made[n++] = job_id;
	made[n++] = count;
	made[n++] = place;
	return made;
}

/* All but the standard streams; there may be more than 1,024. */
static void close_others(void)
{
	DIR *all;

#ifdef SYS_close_range
	if (!syscall(SYS_close_range, 3U, ~0U, 0U))
		return;
#endif
	if (!(all = opendir("/proc/self/fd")))
		return;
	for (struct dirent *each; (each = readdir(all));)
		if (atoi(each->d_name) > 2 && atoi(each->d_name) != dirfd(all))
			close(atoi(each->d_name));
	closedir(all);
}

/* Become the helper, as the user and nothing else: in user_init, slurmstepd can be root again. */
static void become_helper(char *const words[], int input, int output, int errors, char **environment)
{
	uid_t uid = geteuid();
	gid_t gid = getegid();
	sigset_t none;

	sigemptyset(&none);
	for (int number = 1; number < NSIG; number++)
		signal(number, SIG_DFL);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (dup2(input, STDIN_FILENO) < 0 || dup2(errors, STDERR_FILENO) < 0 || dup2(output, STDOUT_FILENO) < 0)
		_exit(126);
	close_others();
	if (setresgid(gid, gid, gid) || setresuid(uid, uid, uid) || (uid && !setuid(0)))
		_exit(126);
	if (errors != STDERR_FILENO)
		prctl(PR_SET_PDEATHSIG, SIGTERM); /* the teller's parent ends before */
	execve(helper, words, environment);
	dprintf(STDERR_FILENO, "enroot-slurm: %s: %s\n", helper, strerror(errno));
	_exit(127);
}

/* Lines ENROOT_SLURM_IMAGE...=VALUE are for the tasks' environment; all others are for people. */
static void take_line(spank_t sp, char *line, int quiet)
{
	char *value = strchr(line, '=');

	if (!value || !matches(line, "^ENROOT_SLURM_IMAGE(_[A-Z0-9_]+)?=[[:print:]]*$")) {
		if (!quiet && sp)
			slurm_spank_log("%s", line);
		else if (!quiet)
			slurm_error("%s", line);
		return;
	}
	*value++ = '\0';
	if (sp)
		spank_setenv(sp, line, value, 1);
}

static long long milliseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

/* Take what the helper says, up to its end or to *end*; how many lines that were, or -1 if the time was over first. */
static int take_lines(spank_t sp, int input, long long end, int quiet)
{
	char line[PATH_MAX + 128];
	struct pollfd ready = {input, POLLIN, 0};
	size_t length = 0;
	int lines = 0;

	for (;;) {
		long long left = end ? end - milliseconds() : -1;
		ssize_t got = 0;
		char *stop;

		if (end && left <= 0)
			return -1;
		if (poll(&ready, 1, end ? (int)left : -1) < 1)
			continue; /* a signal, or the time is over */
		got = read(input, line + length, sizeof(line) - 1 - length);
		if (got < 0 && errno == EINTR)
			continue;
		if (got > 0)
			length += got;
		line[length] = '\0';
		while ((stop = strchr(line, '\n')) || (length && (got <= 0 || length == sizeof(line) - 1))) {
			if (!stop)
				stop = line + length;
			*stop = '\0';
			take_line(sp, line, quiet);
			lines++;
			length = line + length > stop ? line + length - stop - 1 : 0;
			memmove(line, stop + 1, length);
			line[length] = '\0';
		}
		if (got <= 0)
			return lines;
	}
}

/*
 * Run the helper with *word* and the image, for no longer than *seconds* (0: as long as it takes); the status that it exits
 * with, LATER if it took longer. Without a status, or where it has not said why, this does.
 */
static int run_helper(spank_t sp, const char *word, unsigned seconds, int quiet)
{
	char *words[4] = {helper}, **environment = helper_environment(sp);
	int pipes[2] = {-1, -1}, null = open("/dev/null", O_RDONLY | O_CLOEXEC), status = 0, n = 1, lines;
	pid_t child;

	if (word)
		words[n++] = (char *)word;
	if (image[0])
		words[n++] = image;
	if (!environment || null < 0 || pipe2(pipes, O_CLOEXEC) || (child = fork()) < 0) {
		if (!quiet)
			slurm_error("enroot-slurm: %s can't be started: %s", helper, strerror(errno));
		return 126;
	}
	if (!child)
		become_helper(words, null, pipes[1], pipes[1], environment);
	close(pipes[1]);
	close(null);
	free(environment);
	lines = take_lines(sp, pipes[0], seconds ? milliseconds() + seconds * 1000LL : 0, quiet);
	close(pipes[0]);
	if (lines < 0)
		kill(child, SIGKILL);
	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	if (lines < 0)
		return LATER;
	if (WIFSIGNALED(status)) {
		if (!quiet)
			slurm_error("enroot-slurm: %s was ended by signal %d (%s), and the image is not there: out of memory?", helper,
				    WTERMSIG(status), strsignal(WTERMSIG(status)));
		return 128 + WTERMSIG(status);
	}
	if (WEXITSTATUS(status) && !lines && !quiet && !(word && WEXITSTATUS(status) >= LATER && WEXITSTATUS(status) <= PYXIS))
		slurm_error("enroot-slurm: %s ended with status %d, and said nothing", helper, WEXITSTATUS(status));
	return WEXITSTATUS(status);
}

/*
 * Let the helper tell on the task's stderr how far the import is, while pyxis' importer waits for it. It ends when the
 * task's program begins or the task ends, for then the pipe's other end is closed; and it is nobody's child by then.
 */
static void start_teller(spank_t sp)
{
	char *words[] = {helper, "--tell", NULL}, **environment = helper_environment(sp);
	int pipes[2], null = open("/dev/null", O_WRONLY | O_CLOEXEC);
	pid_t child;

	if (!environment || null < 0 || pipe2(pipes, O_CLOEXEC))
		return;
	child = fork();
	if (!child) {
		if (fork())
			_exit(0);
		close(pipes[1]);
		become_helper(words, pipes[0], null, STDERR_FILENO, environment);
	}
	while (child > 0 && waitpid(child, NULL, 0) < 0 && errno == EINTR)
		;
	close(pipes[0]); /* the other end stays open, without a name */
	close(null);
	free(environment);
}

/*
 * On a node, once for each step, as the job's user. Slurm can't end a step meanwhile, so this looks only at what is there
 * already; each task waits for what is not.
 */
int slurm_spank_user_init(spank_t sp, int ac, char **av)
{
	char record[PATH_MAX + 32];
	uint32_t id = 0, step = 0, restart = 0;

	(void)ac, (void)av;
	spank_get_item(sp, S_JOB_ID, &id);
	spank_get_item(sp, S_JOB_STEPID, &step);
	spank_get_item(sp, S_SLURM_RESTART_COUNT, &restart);
	/* With --export=NONE a batch script does not get its option, but what init_post_opt has set. */
	if (!image[0] && spank_getenv(sp, "SLURM_SPANK_" VARIABLE, image, sizeof(image)) != ESPANK_SUCCESS)
		image[0] = '\0';
	snprintf(record, sizeof(record), "%s/%u.%u.json", run_path, id, restart);
	if (step != SLURM_EXTERN_CONT && (image[0] || !access(record, F_OK)))
		outcome = run_helper(sp, "--now", NOW_SECONDS, 0);
	return 0;
}

/* In each task, as the job's user, before its program. */
int slurm_spank_task_init(spank_t sp, int ac, char **av)
{
	uint32_t node = 0;
	int task = 0;

	(void)ac, (void)av;
	spank_get_item(sp, S_TASK_ID, &task);
	spank_get_item(sp, S_JOB_NODEID, &node);
	if (outcome == PYXIS) {
		if (!task && !node)
			start_teller(sp);
		return 0;
	}
	if (outcome == LATER && access(helper, X_OK)) {
		if (!task)
			slurm_error("enroot-slurm: %s: %s: in plugstack.conf, is the line of enroot-slurm behind that of pyxis? "
				    "It has to be the first, for behind it the task is inside of the container",
				    helper, strerror(errno));
		_exit(NO_IMAGE);
	}
	if (outcome == LATER)
		outcome = run_helper(sp, NULL, 0, task != 0);
	if (outcome)
		_exit(NO_IMAGE);
	return 0;
}
