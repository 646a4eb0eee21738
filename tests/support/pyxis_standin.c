/*
 * A stand-in for pyxis in the tests: the same option, with the same rules (a second, different value is refused), the
 * same contract with an importer, and tasks whose root is the image; here by unsquashfs and chroot.
 *
 *   required DIRECTORY/pyxis_standin.so [importer=PROGRAM]
 */
#include <limits.h>
#include <slurm/spank.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

SPANK_PLUGIN(pyxis, 1)

#define LAST_STEP 0xfffffff0U /* above are the batch script and the like */

static char *image, **environment;
static char importer[PATH_MAX];
static char root[PATH_MAX];
static int failed;

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

static struct spank_option option = {"container-image", "[USER@][REGISTRY#]IMAGE[:TAG]|PATH",
				     "[pyxis] the image to use for the container filesystem.", 1, 0, set_image};

int slurm_spank_init(spank_t sp, int ac, char **av)
{
	for (int i = 0; i < ac; i++)
		if (strncmp(av[i], "importer=", 9) == 0)
			snprintf(importer, sizeof(importer), "%s", av[i] + 9);
	return spank_option_register(sp, &option) == ESPANK_SUCCESS ? 0 : -1;
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

/* Run a command as the job's user; its first line of output, if wanted. */
static int run(char *const words[], char *line, size_t size)
{
	int pipes[2], status;
	pid_t child;

	if (pipe(pipes) < 0 || (child = fork()) < 0)
		return -1;
	if (child == 0) {
		setuid(geteuid());
		set_environment();
		dup2(pipes[1], STDOUT_FILENO);
		close(pipes[0]);
		close(pipes[1]);
		execvp(words[0], words);
		_exit(127);
	}
	close(pipes[1]);
	FILE *output = fdopen(pipes[0], "r");
	if (line && fgets(line, size, output))
		line[strcspn(line, "\n")] = '\0';
	while (fgetc(output) != EOF)
		;
	fclose(output);
	return waitpid(child, &status, 0) == child && status == 0 ? 0 : -1;
}

static void release(void)
{
	if (importer[0] && image && image[0] != '.' && image[0] != '/')
		if (run((char *[]){importer, "release", NULL}, NULL, 0))
			slurm_error("pyxis: could not call importer release");
}

int slurm_spank_user_init(spank_t sp, int ac, char **av)
{
	char file[PATH_MAX] = "", uri[PATH_MAX], inside[2 * PATH_MAX];
	uint32_t step = 0;

	if (!image)
		return 0;
	spank_get_item(sp, S_JOB_STEPID, &step);
	spank_get_item(sp, S_JOB_ENV, &environment);
	if (image[0] == '.' || image[0] == '/') {
		snprintf(file, sizeof(file), "%s", image);
	} else if (importer[0]) {
		snprintf(uri, sizeof(uri), "%s%s", strstr(image, "://") ? "" : "docker://", image);
		failed = run((char *[]){importer, "get", uri, NULL}, file, sizeof(file));
	} else {
		failed = 1;
	}
	spank_setenv(sp, "STANDIN_IMAGE", file, 1);
	if (!failed && step < LAST_STEP) { /* a batch script stays outside */
		snprintf(root, sizeof(root), "/tmp/pyxis-standin.XXXXXX");
		failed = !mkdtemp(root) ||
			 run((char *[]){"unsquashfs", "-f", "-quiet", "-no-progress", "-d", root, file, NULL}, NULL, 0);
		if (spank_getenv(sp, "SLURM_SUBMIT_DIR", uri, sizeof(uri)) == ESPANK_SUCCESS) { /* where the task is put */
			snprintf(inside, sizeof(inside), "%s/%s", root, uri);
			run((char *[]){"mkdir", "-p", inside, NULL}, NULL, 0);
		}
	}
	if (failed)
		slurm_error("pyxis: no container: %s", image);
	release();
	return 0;
}

int slurm_spank_task_init_privileged(spank_t sp, int ac, char **av)
{
	return failed || (root[0] && (chroot(root) < 0 || chdir("/") < 0)) ? -1 : 0;
}

int slurm_spank_exit(spank_t sp, int ac, char **av)
{
	if (spank_context() == S_CTX_REMOTE)
		release();
	if (spank_context() == S_CTX_REMOTE && root[0])
		run((char *[]){"rm", "-rf", root, NULL}, NULL, 0);
	return 0;
}
