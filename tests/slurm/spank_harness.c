/* The plug-in's own check of references, without Slurm: a reference per line of stdin; what is wrong with it on stdout. */
#include "spank_enroot_slurm.c"

/* What it would call in Slurm, and does not reach here. */
void slurm_error(const char *f, ...) { (void)f; }
void slurm_spank_log(const char *f, ...) { (void)f; }
spank_context_t spank_context(void) { return S_CTX_ERROR; }
spank_err_t spank_option_register(spank_t s, struct spank_option *o) { (void)s, (void)o; return ESPANK_ERROR; }
spank_err_t spank_get_item(spank_t s, spank_item_t i, ...) { (void)s, (void)i; return ESPANK_ERROR; }
extern char **environ;
spank_err_t spank_getenv(spank_t s, const char *v, char *b, int n) { (void)s, (void)v, (void)b, (void)n; return ESPANK_ERROR; }
spank_err_t spank_setenv(spank_t s, const char *v, const char *t, int o) { (void)s, (void)v, (void)t, (void)o; return ESPANK_ERROR; }
spank_err_t spank_job_control_setenv(spank_t s, const char *v, const char *t, int o) { (void)s, (void)v, (void)t, (void)o; return ESPANK_ERROR; }

int main(void)
{
	char line[8192];

	while (fgets(line, sizeof(line), stdin)) {
		line[strcspn(line, "\n")] = '\0';
		const char *why = wrong(line);
		puts(why ? why : "ok");
	}
	return 0;
}
