"""What ``tools/faces`` prints can be compared."""

from __future__ import annotations

from tools.house.faces import faces, masked_attributes, masked_numbers


def test_two_mounts_have_the_same_faces_and_all_command_files_are_in_them() -> None:
    first = faces()
    assert first == faces()
    assert "=== cat control/pager/supply_pages\nVMO OFFSET LENGTH AUX AUX_OFFSET [xxh3=HEX]\n" in first
    assert "=== vmofs umount --help\nusage: vmofs umount" in first


def test_what_differs_between_two_mounts_is_masked() -> None:
    assert masked_attributes("key=17\npid=1234\nruns=0\n") == "key=MASKED\npid=MASKED\nruns=0\n"
    assert masked_numbers('vmofs_x2{uid="0"} 17 1.5') == 'vmofs_x2{uid="N"} N N'
