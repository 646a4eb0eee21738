/*
 * spank_enroot_slurm: a job or a step asks for an image, and its tasks learn where it is.
 *
 *   optional spank_enroot_slurm.so [option=NAME] [helper=FILE] [run_path=DIRECTORY]
 *
 *   option    the option's name: enroot-image; container-image may be had where there is no pyxis
 *   helper    what a node runs, as the job's user, to get an image: /usr/libexec/enroot-slurm/step
 *   run_path  the site's setting of this name, if it is not /run/enroot-slurm
 *
 * Where it is submitted, it looks at the text and hands it to the prolog, as SPANK_ENROOT_IMAGE. On a node it runs the
 * helper once per step, not once per task, and puts what that finds into the tasks' environment; or it ends the tasks.
 * Anything that could be written in Python is. There is no slurm_spank_job_prolog (Slurm would then take the variables of
 * other plug-ins' options from the prolog), and nothing but slurm_spank_task_init fails on a node: that alone costs the job
 * and not the node. See docs/slurm.md, and spank(8).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <regex.h>
#include <signal.h>
#include <slurm/slurm.h>
#include <slurm/spank.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

SPANK_PLUGIN(enroot_slurm, 1)

#define MAX_TEXT 8191 /* of an option; request.py takes more, but not from here */
#define MAX_URI 2048
#define NO_IMAGE 78    /* a task's status; EX_CONFIG of sysexits.h */
#define LATER 75       /* the helper's: it would have to wait; EX_TEMPFAIL */
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
 * What is wrong with the reference, if that is clear; else NULL. The rules are those of enroot_slurm/oci/reference.py, which
 * has the last word.
 */
static const char *wrong(const char *reference)
{
	char buffer[MAX_URI + 1], *name = buffer, *at, *end, *tag, *slash;
	int pinned = 0;

	if (strlen(reference) > MAX_URI)
		return "it is longer than 2048 characters";
	strcpy(buffer, reference);
	if (buffer[0] == '/' || !strncmp(buffer, "./", 2) || !strncmp(buffer, "../", 3))
		return NULL; /* a file */
	if (strstr(buffer, "://")) {
		if (!strncmp(buffer, "dockerd://", 10) || !strncmp(buffer, "podman://", 9) || strstr(buffer, "://podman://"))
			return "this image is in a local daemon, where no node can get it: push it to a registry";
		if (strncmp(buffer, "docker://", 9))
			return "it does not start with docker://";
		name += 9;
	}
	at = strrchr(name, '@');
	/* A single word before "@sha512:" is a login, as it is to enroot. */
	if (at && (matches(at, "^@sha256:[0-9a-f]{64}$") ||
		   (matches(at, "^@sha512:[0-9a-f]{128}$") && name + strcspn(name, "/:.#@") < at))) {
		pinned = 1;
		*at = '\0';
		at = strrchr(name, '@');
	}
	if (at && !pinned && (strncmp(at, "@sha512:", 8) || name + strcspn(name, "/:.#@") < at)) {
		if (matches(at, "^@(md5|sha[0-9]{1,3}|blake[0-9][a-z]?)(:[^/#]*|[+_-][0-9a-f]{8,}[A-Za-z0-9_.-]*)$"))
			return "a digest is sha256: and 64, or sha512: and 128, lower-case hexadecimal digits";
		if (matches(at, "^@v?[0-9]+([.-][A-Za-z0-9_.-]*)?$"))
			return "a tag has ':' before it, not '@'";
	}
	if (at) {
		*at = '\0';
		if (strchr(name, ':'))
			return "a login must not hold a password, which everyone could see: keep it in your .credentials file";
		if (!matches(name, "^[A-Za-z0-9_.!~*'();&=+$,/%@-]+$"))
			return "what is before the @ is not a login name";
		name = at + 1;
	}
	end = strchr(name, '#');
	slash = strchr(name, '/');
	if (!end && slash && memchr(name, '.', slash - name))
		end = slash;
	if (!end && slash && memchr(name, ':', slash - name))
		end = slash;
	if (end) {
		*end = '\0';
		if (*name && name[strlen(name) - 1] == '\\')
			return "there is a backslash before the #: write REGISTRY/IMAGE, which needs none";
		if (!matches(name, "^([A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*"
				   "|\\[[0-9a-fA-F:]+\\])(:[0-9]{1,5})?$"))
			return "a registry is a host name or address with an optional port, such as nvcr.io or localhost:5000";
		tag = strrchr(name, ':');
		if (tag && !strchr(tag, ']') && (atoi(tag + 1) < 1 || atoi(tag + 1) > 65535))
			return "a port is a number from 1 to 65535";
		name = end + 1;
	}
	tag = strchr(name, ':');
	if (tag) {
		*tag++ = '\0';
		if (!matches(tag, "^([A-Za-z0-9_][A-Za-z0-9_.-]{0,127}|sha256:[0-9a-f]{64})$"))
			return "a tag is up to 128 letters, digits, '_', '.' and '-'";
	}
	if (!*name)
		return "the image is missing; in an #SBATCH line, a '#' cuts off the rest: write REGISTRY/IMAGE";
	if (!matches(name, "^[a-z0-9]+((\\.|__?|-+)[a-z0-9]+)*(/[a-z0-9]+((\\.|__?|-+)[a-z0-9]+)*)*$") ||
	    strlen(name) > (end || slash ? 255 : 247)) /* "library/" is put before it */
		return "a repository is lower-case letters and digits, separated by '/', with '.', '_' or '-' between them";
	/* Docker Hub has no image of its own with such a name. */
	if (!end && !slash && (strchr(name, '.') || !strcmp(name, "localhost")))
		return "this is a registry without an image; in an #SBATCH line, a '#' cuts off the rest: write REGISTRY/IMAGE";
	return NULL;
}

/* Say what is wrong with the option's text, if anything is: see request.py for its grammar. 0: nothing. */
static int check(const char *text)
{
	char words[MAX_TEXT + 1], *rest, *word;
	const char *why = NULL;
	int images = 0;

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
		if (!strncmp(word, "arch=", 5) || !strncmp(word, "name=", 5)) {
			if (!images || !matches(word + 5, "^[A-Za-z0-9_][A-Za-z0-9_./-]*$"))
				why = "arch=ARCH and name=NAME follow an image";
		} else {
			images++;
			why = wrong(word + (strncmp(word, "image=", 6) ? 0 : 6));
		}
		if (why)
			slurm_error("enroot-slurm: --%s=%.200s: %s", option_name, word, why);
	}
	if (!why && !images)
		slurm_error("enroot-slurm: --%s: an image is missing", option_name);
	return why || !images ? -1 : 0;
}

static int set_image(int val, const char *text, int remote)
{
	(void)val;
	if (!remote && check(text))
		return -1;
	if (!remote && handed_over && strcmp(text, image)) { /* Slurm would give one of them to all */
		slurm_error("enroot-slurm: --%s: all components of a heterogeneous job have the same image", option_name);
		return -1;
	}
	snprintf(image, sizeof(image), "%s", text ? text : "");
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
static char **helper_environment(char **job, uint32_t id, uint32_t restart)
{
	static char job_id[48], count[48];
	size_t n = 0, size = 4;
	char **made;

	for (char **each = job; each && *each; each++)
		size++;
	made = calloc(size, sizeof(*made));
	if (!made)
		return NULL;
	for (char **each = job; each && *each; each++)
		if (strncmp(*each, "LD_", 3) && strncmp(*each, "SLURM_JOB_ID=", 13) && strncmp(*each, "SLURM_JOB_RESTART_COUNT=", 24))
			made[n++] = *each;
	snprintf(job_id, sizeof(job_id), "SLURM_JOB_ID=%u", id);
	snprintf(count, sizeof(count), "SLURM_JOB_RESTART_COUNT=%u", restart);
	made[n++] = job_id;
	made[n++] = count;
	return made;
}

/* Become the helper, as the user and nothing else: in user_init, slurmstepd can be root again. */
static void become_helper(char *const words[], int output, char **environment)
{
	uid_t uid = geteuid();
	gid_t gid = getegid();
	sigset_t none;

	sigemptyset(&none);
	for (int number = 1; number < NSIG; number++)
		signal(number, SIG_DFL);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (dup2(output, STDOUT_FILENO) < 0 || dup2(output, STDERR_FILENO) < 0)
		_exit(126);
	for (int fd = 3; fd < 1024; fd++)
		close(fd);
	close(STDIN_FILENO);
	if (open("/dev/null", O_RDONLY) != STDIN_FILENO)
		_exit(126);
	if (setresgid(gid, gid, gid) || setresuid(uid, uid, uid) || (uid && !setuid(0)))
		_exit(126);
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	execve(helper, words, environment);
	dprintf(STDERR_FILENO, "enroot-slurm: %s: %s\n", helper, strerror(errno));
	_exit(127);
}

/* Lines ENROOT_SLURM_IMAGE...=VALUE are for the tasks' environment; all others are for people. */
static void take_line(spank_t sp, char *line, int quiet)
{
	char *value = strchr(line, '=');

	line[strcspn(line, "\n")] = '\0';
	if (!value || !matches(line, "^ENROOT_SLURM_IMAGE(_[A-Z0-9_]+)?=[[:print:]]*$")) {
		if (!quiet)
			slurm_spank_log("%s", line);
		return;
	}
	*value++ = '\0';
	spank_setenv(sp, line, value, 1);
}

/* Run the helper, for no longer than *seconds* (0: as long as it takes); the status that it exits with. */
static int run_helper(spank_t sp, int now, unsigned seconds, int quiet)
{
	char *words[4] = {helper}, line[PATH_MAX + 128], **environment = NULL;
	uint32_t id = 0, restart = 0;
	int pipes[2], status = 0, n = 1;
	FILE *output;
	pid_t child;

	if (now)
		words[n++] = "--now";
	if (image[0])
		words[n++] = image;
	spank_get_item(sp, S_JOB_ID, &id);
	spank_get_item(sp, S_SLURM_RESTART_COUNT, &restart);
	spank_get_item(sp, S_JOB_ENV, &environment);
	environment = helper_environment(environment, id, restart);
	if (!environment || pipe2(pipes, O_CLOEXEC) || (child = fork()) < 0) {
		slurm_spank_log("enroot-slurm: %s can't be started: %s", helper, strerror(errno));
		return 126;
	}
	if (!child) {
		alarm(seconds);
		become_helper(words, pipes[1], environment);
	}
	close(pipes[1]);
	free(environment);
	output = fdopen(pipes[0], "r");
	while (output && fgets(line, sizeof(line), output))
		take_line(sp, line, quiet);
	if (output)
		fclose(output);
	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	return WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status) == SIGALRM ? LATER : 128 + WTERMSIG(status);
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
		outcome = run_helper(sp, 1, NOW_SECONDS, 0);
	return 0;
}

/* In each task, as the job's user, before its program. */
int slurm_spank_task_init(spank_t sp, int ac, char **av)
{
	int task = 0;

	(void)ac, (void)av;
	spank_get_item(sp, S_TASK_ID, &task);
	if (outcome == LATER)
		outcome = run_helper(sp, 0, 0, task != 0);
	if (outcome)
		_exit(NO_IMAGE);
	return 0;
}
