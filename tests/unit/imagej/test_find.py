"""Finding an ImageJ and a Java: no JVM is started here."""

import os
from pathlib import Path

import pytest

from densecell_batch.errors import ImageJError, OptionError
from densecell_batch.imagej import find
from densecell_batch.imagej.find import ImageJPlace, find_folder, find_imagej, find_java


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.fixture
def fiji(tmp_path):
    """A folder laid out as Fiji is."""
    folder = tmp_path / "My Fiji.app"
    touch(
        *(
            folder / "jars" / name
            for name in ("ij-1.54p.jar", "imagej-2.17.0.jar", "imagej-legacy-2.0.1.jar", "bio/x.jar")
        )
    )
    touch(folder / "plugins/A_Plugin.jar")
    return folder


def test_a_fiji_folder(fiji):
    place = find_imagej(str(fiji))
    assert {jar.name for jar in place.jars} == {
        "ij-1.54p.jar", "imagej-2.17.0.jar", "imagej-legacy-2.0.1.jar", "x.jar", "A_Plugin.jar",
    }  # fmt: skip
    assert place.has_gateway
    assert place.plugins == fiji / "plugins"


def test_a_folder_without_the_gateway(fiji):
    (fiji / "jars/imagej-legacy-2.0.1.jar").unlink()
    place = find_imagej(str(fiji))
    assert not place.has_gateway
    assert "A_Plugin.jar" not in {jar.name for jar in place.jars}  # ImageJ itself loads it
    assert place.plugins == fiji / "plugins"


@pytest.mark.parametrize("jar", ["ij.jar", "Contents/Java/ij.jar"])
def test_a_plain_folder(tmp_path, jar):
    touch(tmp_path / jar)
    assert find_imagej(str(tmp_path)) == ImageJPlace(str(tmp_path), (tmp_path / jar,))


def test_a_jar(tmp_path):
    touch(tmp_path / "ij-1.54p.jar")
    assert find_imagej(str(tmp_path / "ij-1.54p.jar")).jars == (tmp_path / "ij-1.54p.jar",)


def test_the_usual_places_in_their_order(tmp_path, monkeypatch):
    places = [str(tmp_path / name) for name in "abc"]
    monkeypatch.setattr(find, "KNOWN_PLACES", places)
    touch(tmp_path / "b/ij.jar", tmp_path / "c/ij.jar")
    assert find_imagej().where == places[1]
    touch(tmp_path / "a/notes.txt")
    assert find_imagej().where == places[1]


# Usual places of others: with HOME=/tmp, as in containers, "~/ImageJ" is anybody's.

OTHER = 65534


@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="gives files to another user")
@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: os.chown(folder, OTHER, OTHER),
        lambda folder: os.chown(folder / "jars/ij-1.54p.jar", OTHER, OTHER),
        lambda folder: os.chown(folder / "jars/bio/x.jar", OTHER, OTHER),
        lambda folder: folder.chmod(0o777),
        lambda folder: folder.chmod(0o1777),
        lambda folder: (folder / "jars").chmod(0o777),
        lambda folder: (folder / "jars/ij-1.54p.jar").chmod(0o666),
        lambda folder: (folder / "plugins").chmod(0o777),
    ],
    ids=["folder of another", "jar of another", "library of another", "writable", "sticky", "jars writable",
         "jar writable", "plugins writable"],
)  # fmt: skip
def test_usual_places_that_others_can_fill_are_left_out(fiji, tmp_path, monkeypatch, spoil):
    monkeypatch.setattr(find, "KNOWN_PLACES", [str(fiji)])
    assert find_imagej().where == str(fiji)
    spoil(fiji)
    with pytest.raises(ImageJError, match="is left out: others than you and root own it, or can write there; give"):
        find_imagej()
    assert find_imagej(str(fiji)).where == str(fiji)  # who names it, means it
    touch(tmp_path / "ours/ij.jar")
    monkeypatch.setattr(find, "KNOWN_PLACES", [str(fiji), str(tmp_path / "ours")])
    assert find_imagej().where == str(tmp_path / "ours")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="gives files to another user")
def test_links_of_others_are_left_out(fiji, tmp_path, monkeypatch):
    """They may lead to a folder that is ours, but was handed over."""
    link = tmp_path / "ImageJ"
    link.symlink_to(fiji)
    monkeypatch.setattr(find, "KNOWN_PLACES", [str(link)])
    assert find_imagej().where == str(link)
    os.chown(link, OTHER, OTHER, follow_symlinks=False)
    with pytest.raises(ImageJError, match="is left out"):
        find_imagej()


@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="gives files to another user")
def test_the_installation_of_macros_leaves_them_out_too(fiji, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    fiji.rename(tmp_path / "Fiji.app")
    assert find_folder() == tmp_path / "Fiji.app"
    os.chown(tmp_path / "Fiji.app", OTHER, OTHER)
    with pytest.raises(OptionError, match="no Fiji or ImageJ in the usual places"):
        find_folder()


@pytest.mark.parametrize(
    ("paths", "where", "home"),
    [
        (["ij.jar"], "ij.jar", "."),
        (["ij.jar"], ".", "."),
        (["ij.jar", "plugins/A_.class"], ".", "."),
        (["jars/ij-1.54p.jar"], ".", "jars"),
        (["jars/ij-1.54p.jar", "plugins/A.jar"], ".", "."),
        (["Contents/Java/ij.jar", "plugins/A.jar"], ".", "."),
    ],
)
def test_the_home_of_imagej_is_never_the_working_folder(tmp_path, monkeypatch, paths, where, home):
    touch(*(tmp_path / "ij" / path for path in paths))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    assert find_imagej(str(tmp_path / "ij" / where)).home == tmp_path / "ij" / home
    assert ImageJPlace("net.imagej:ij", (tmp_path / "ij/ij-1.54p.jar",)).home == tmp_path / "ij"


def test_the_places_of_the_image_and_of_debian_come_first():
    assert find.KNOWN_PLACES[:2] == ("/opt/densecell/imagej", "/usr/share/java/ij.jar")


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("nowhere", "nowhere: no such file or folder; give --imagej with a Fiji or ImageJ folder"),
        ("/no/such:thing", "no such file or folder"),
        ("{tmp}", "no ImageJ in it; expected an ij.jar, or a folder with"),
        ("{tmp}/half", "no ImageJ in it"),
        ("{tmp}/text.ijm", "no ImageJ in it"),
    ],
)
def test_no_imagej(tmp_path, where, message):
    touch(tmp_path / "half/jars/ijcommon-1.jar", tmp_path / "text.ijm")
    with pytest.raises(ImageJError, match=message):
        find_imagej(where.format(tmp=tmp_path))


def test_none_in_any_usual_place(monkeypatch, tmp_path):
    monkeypatch.setattr(find, "KNOWN_PLACES", [str(tmp_path / name) for name in "abc"])
    with pytest.raises(ImageJError, match=r"no ImageJ in any usual place .*apt install libij-java"):
        find_imagej()


def test_java_home_comes_first_and_has_to_be_right(tmp_path, monkeypatch):
    program = "java.exe" if os.name == "nt" else "java"
    touch(tmp_path / "jdk/bin" / program)
    (tmp_path / "jdk/bin" / program).chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "jdk"))
    assert find_java() == tmp_path / "jdk"
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "gone"))
    with pytest.raises(ImageJError, match=r"JAVA_HOME is .*gone, where there is no bin/java; install Java 11"):
        find_java()
    monkeypatch.delenv("JAVA_HOME")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / program).symlink_to(tmp_path / "jdk/bin" / program)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert find_java() == tmp_path / "jdk"
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ImageJError, match="there is no Java: JAVA_HOME is not set and no java is on the PATH; install"):
        find_java()
