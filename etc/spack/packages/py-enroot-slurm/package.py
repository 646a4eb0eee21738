# A recipe for Spack: spack repo add etc/spack && spack install py-enroot-slurm
from spack.package import *


class PyEnrootSlurm(PythonPackage):
    """Imports container images for Slurm jobs: once per cluster, verified, into enroot squashfs images."""

    # From a checkout or the sdist of "make dist": spack develop --path DIRECTORY py-enroot-slurm@0.1.0
    version("0.1.0")

    variant("tools", default=True, description="squashfs-tools, for the few squash options that need them")

    depends_on("python@3.11:", type=("build", "run"))
    depends_on("py-setuptools@68:", type="build")
    depends_on("py-requests@2.33:", type=("build", "run"))
    depends_on("py-urllib3@2.7:", type=("build", "run"))
    depends_on("py-pyyaml@6:", type=("build", "run"))
    depends_on("py-filelock@4.2.1:", type=("build", "run"))
    depends_on("py-zlib-ng@0.5:", type=("build", "run"))
    depends_on("py-backports-zstd@1:", type=("build", "run"), when="^python@:3.13")
    depends_on("py-tqdm@4.66.3:", type=("build", "run"))
    depends_on("lzo", type="run")
    depends_on("squashfs", type="run", when="+tools")

    license("Apache-2.0")

    def setup_run_environment(self, env):
        # Loaded by ctypes, by its name.
        env.prepend_path("LD_LIBRARY_PATH", self.spec["lzo"].prefix.lib)
