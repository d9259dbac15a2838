"""Import every module of the packages given as arguments; fail with the traceback of the first that cannot be."""

import importlib
import pkgutil
import sys

count = 0
for package_name in sys.argv[1:]:
    package = importlib.import_module(package_name)
    for info in pkgutil.walk_packages(package.__path__, prefix=f"{package_name}."):
        importlib.import_module(info.name)
        count += 1
print(f"{count} modules imported")
