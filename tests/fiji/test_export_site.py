"""`densecell-batch fiji export-site`: the folder, what is refused, and the menu of an ImageJ that has it."""

import shutil

import pytest
from fiji_folder import run_script
from imagej_app import JAR, MISSING
from test_fiji_install import FILES, content, fiji


def test_the_folder_of_a_site(tmp_path):
    """Written again in place of an earlier export; files of others stay; the tool is started by its name."""
    site = tmp_path / "sité"
    for _ in range(2):
        done = fiji("export-site", site)
        assert (done.returncode, done.stdout) == (0, f"{site}/plugins/DenseCell\n"), done.stderr
        folder = site / "plugins" / "DenseCell"
        made = content(folder)
        assert set(made) - {"mine.ijm", "DenseCell_Mine.ijm"} == FILES
        assert made["runner.txt"].startswith(b"runner=local\ncommand=densecell-batch\n")
        (folder / "mine.ijm").write_text("mine")
        (folder / "DenseCell_Mine.ijm").write_text("mine")
        (folder / "DenseCell_Old.ijm").write_bytes(made["DenseCell_Measure.ijm"])
    fiji("export-site", site, "--runner", "docker", "--target", "host/densecell:1")
    assert b"command=docker\ntarget=host/densecell:1\n" in (folder / "runner.txt").read_bytes()
    assert {file.name for file in folder.iterdir()} == {*FILES, "mine.ijm", "DenseCell_Mine.ijm"}


@pytest.mark.parametrize("name", ["DenseCell_Measure.ijm", "runner.txt"])
def test_a_foreign_file_is_not_replaced(tmp_path, name):
    folder = tmp_path / "plugins" / "DenseCell"
    folder.mkdir(parents=True)
    (folder / name).write_text("mine")
    done = fiji("export-site", tmp_path)
    assert done.returncode == 1
    assert f"{folder / name}: a file that is not one of these macros" in done.stderr
    assert "Traceback" not in done.stderr
    assert content(folder) == {name: b"mine"}


@pytest.mark.fiji
@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
def test_an_imagej_that_has_the_site_shows_the_commands(tmp_path):
    site = tmp_path / "ij"
    assert fiji("export-site", site).returncode == 0
    shutil.copy(JAR, site / "ij.jar")
    menu, answer = run_script(
        site,
        'say(call("ij.Menus.getCommands"));\nsay(runMacro(D + "DenseCell_Measure.ijm", "labels=[none.tif]"));',
        tmp_path / "talk",
    )
    for name in FILES - {"runner.txt"}:
        command = name.removesuffix(".ijm").replace("_", " ")
        assert f'{command}=ij.plugin.Macro_Runner("DenseCell/{name}")' in menu
    assert answer == "failed\tnone.tif: no such file"
