import pytest

from longseal.registry.addresses import addresses, is_off_limits


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "::ffff:169.254.169.254",
        "fe80::1%eth0",
        "fd00:ec2::254",
        "100.100.100.200",
    ],
)
def test_metadata_and_link_local_addresses_are_off_limits_to_every_registry(address: str) -> None:
    assert is_off_limits(address, registry_inside=True)
    assert is_off_limits(address, registry_inside=False)


@pytest.mark.parametrize(
    "address",
    [
        "10.0.0.1",
        "172.16.9.9",
        "192.168.1.1",
        "127.0.0.1",
        "::1",
        "fd12::1",
        "0.0.0.0",
        "100.64.0.1",
    ],
)
def test_inside_is_off_limits_to_a_registry_outside(address: str) -> None:
    assert is_off_limits(address, registry_inside=False)
    assert not is_off_limits(address, registry_inside=True)


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1::1", "::ffff:93.184.216.34"])
def test_the_public_internet_is_open(address: str) -> None:
    assert not is_off_limits(address, registry_inside=False)


def test_a_name_that_does_not_resolve_has_no_address() -> None:
    assert addresses("127.0.0.1", 80) == {"127.0.0.1"}
    assert addresses("a" * 300, 80) == addresses("registry.invalid", 80) == frozenset()
