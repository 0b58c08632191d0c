#!/usr/bin/env python3
"""debian_packages.py: the package index of this machine's Debian, as PostgreSQL's COPY text on standard output.

A real data set of some 64,000 rows with long texts that every Debian machine can get: name, version, section,
maintainer, installed size in KiB, description, homepage. It is fetched with the machine's own apt sources into
~/.cache/rowtide-demo, beside apt's own lists, because images of Debian often leave the long descriptions out.
Needs neither root nor anything but the standard library.
"""

import os
import subprocess
import sys

CACHE = os.path.join(os.environ.get("HOME", "/tmp"), ".cache", "rowtide-demo", "apt")
COLUMNS = ("package", "version", "section", "maintainer", "installed_size", "description", "homepage")


def apt(*command):
    """Run a tool of apt on lists of our own."""
    options = ["Dir::State::lists=" + os.path.join(CACHE, "lists"), "Dir::Cache=" + os.path.join(CACHE, "cache"),
               "Acquire::Languages=en", "Acquire::Retries=3", "APT::Sandbox::User=", "Debug::NoLocking=1",
               "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false"]
    arguments = [command[0]] + [part for option in options for part in ("-o", option)] + list(command[1:])
    return subprocess.run(arguments, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE).stdout


def list_files(created_by):
    names = apt("apt-get", "indextargets", "--format", "$(FILENAME)", "Created-By: " + created_by).decode().split()
    return [name for name in names if os.path.exists(name)]


def fetch():
    """Fetch the lists unless they are there. Returns the files of packages and of long descriptions."""
    for folder in ("lists/partial", "cache/archives/partial"):
        os.makedirs(os.path.join(CACHE, folder), exist_ok=True)
    if not list_files("Packages"):
        apt("apt-get", "-qq", "update")
    packages = list_files("Packages")
    if not packages:
        sys.exit("debian_packages.py: apt knows no index of packages; does /etc/apt name a source?")
    return packages, list_files("Translations")


def paragraphs(path):
    """The paragraphs of an apt list, each a dict of its fields; continued lines are joined by newlines."""
    text = apt("/usr/lib/apt/apt-helper", "cat-file", path).decode("utf-8", "replace")
    for block in text.split("\n\n"):
        fields, name = {}, None
        for line in block.split("\n"):
            if line.startswith((" ", "\t")):
                if name:
                    # " ." is an empty line.
                    fields[name] += "\n" + ("" if line.strip() == "." else line[1:])
            elif ":" in line:
                name, _, value = line.partition(":")
                fields[name] = value.strip()
        if fields:
            yield fields


def rows():
    """One row for each package, in the order of COLUMNS; None for what a package does not have."""
    packages, translations = fetch()
    long_texts = {}
    for path in translations:
        for fields in paragraphs(path):
            long_texts[fields.get("Description-md5")] = fields.get("Description-en")
    newest = {}
    for path in packages:  # updates and security fixes come after the release itself
        for fields in paragraphs(path):
            if "Package" in fields:
                newest[fields["Package"]] = fields
    for fields in newest.values():
        yield (fields["Package"], fields.get("Version"), fields.get("Section"), fields.get("Maintainer"),
               fields.get("Installed-Size"), long_texts.get(fields.get("Description-md5")) or fields.get("Description"),
               fields.get("Homepage"))


def copy_text(row):
    """A row in the text format of COPY."""
    def field(value):
        if value is None:
            return "\\N"
        return (value.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r"))
    return "\t".join(field(value) for value in row) + "\n"


def main():
    if sys.argv[1:]:
        print(__doc__.strip())
        return
    with open(sys.stdout.fileno(), "w", encoding="utf-8", closefd=False) as output:
        for row in rows():
            output.write(copy_text(row))


if __name__ == "__main__":
    main()
