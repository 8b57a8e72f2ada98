from rtd_mymethod import MyMethod

from rtd_plugin.testing import check_adapter


def test_the_adapter_is_right():
    check_adapter(MyMethod())
