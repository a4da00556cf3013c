// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Ask, Bid, Counted, Lease} from "../../src/interfaces/IComputeEscrow.sol";
import {EscrowTest} from "../support/EscrowTest.sol";

/// @notice What a lease comes to in total, however it is settled, against the one figure of its usage.
contract TotalsTest is EscrowTest {
    uint256 private constant PARTS = 6;
    uint256 private constant MOST_MS = 3_600_000; // the bid's hour

    /// @dev A lease at an odd price, so that nothing divides evenly, with its whole time gone by.
    function _openAt(uint64 gpuHour) private returns (bytes16 leaseNo, uint256 rate) {
        (Ask memory ask, Bid memory bid) = (_ask(), _bid());
        ask.floor.gpuHour = gpuHour;
        bid.limits[0].rate = type(uint64).max;
        bid.budget = type(uint96).max;
        leaseNo = escrow.open(_match(ask, bid));
        vm.warp(block.timestamp + 4200);
        return (leaseNo, uint256(gpuHour) * bid.gpuMilli);
    }

    /// @dev Atoms that `ms` cost, rounded down once.
    function _total(uint256 rate, uint256 ms) private pure returns (uint256) {
        return rate * ms * 1e18 / 3.6e18;
    }

    function _received() private view returns (uint256) {
        return escrow.balanceOf(provider) + escrow.feesOf(provider);
    }

    /// @dev Usage figures from a seed; not in order, some of them alike.
    function _figures(uint256 seed, uint256 most) private pure returns (uint256[] memory figures) {
        figures = new uint256[](PARTS);
        for (uint256 i = 0; i < PARTS; i++) {
            figures[i] = uint256(keccak256(abi.encode(seed, i))) % (most + 1);
        }
    }

    function _greatest(uint256[] memory figures) private pure returns (uint256 greatest) {
        for (uint256 i = 0; i < figures.length; i++) {
            if (figures[i] > greatest) greatest = figures[i];
        }
    }

    /* 4: SPLITTING */

    function testFuzz_splitting_never_pays_more(uint64 gpuHour, uint256 ms, uint256 step) public {
        gpuHour = uint64(bound(gpuHour, 1, 1000e9));
        ms = bound(ms, 1, MOST_MS);
        step = bound(step, ms / PARTS + 1, ms);
        (bytes16 leaseNo, uint256 rate) = _openAt(gpuHour);
        uint256 locked = _lease(leaseNo).locked;
        for (uint256 at = step; at < ms; at += step) {
            assertTrue(_settle(leaseNo, uint64(at)));
        }
        assertTrue(_settle(leaseNo, uint64(ms)));
        assertEq(_received(), _total(rate, ms));
        assertEq(escrow.feesOf(provider), _total(rate, ms) * FEE_BPS / 10_000);
        assertEq(_lease(leaseNo).locked, locked - _received());
    }

    function testFuzz_splitting_counted_never_pays_more(
        uint64 egressGib,
        uint64 unit,
        uint32 egressMib,
        uint32 units,
        uint256 seed
    ) public {
        (Ask memory ask, Bid memory bid) = _countedOrders();
        (ask.floor.gpuHour, ask.floor.egressGib) = (0, uint64(bound(egressGib, 0, 1e9)));
        ask.floor.unit = uint64(bound(unit, 0, 0.01e9));
        (egressMib, units) = (uint32(bound(egressMib, 1, 10_240)), uint32(bound(units, 1, 5000)));
        bytes16 leaseNo = escrow.open(_match(ask, bid));
        uint256[] memory parts = _figures(seed, egressMib);
        for (uint256 i = 0; i < PARTS; i++) {
            _settleMetered(leaseNo, 0, uint32(parts[i]), uint32(parts[i] * units / egressMib));
        }
        _settleMetered(leaseNo, 0, egressMib, units);
        uint256 nano = uint256(ask.floor.egressGib) * egressMib + uint256(ask.floor.unit) * units * 1024;
        assertEq(_received(), nano * 1e18 / 1024e9);
        assertEq(escrow.feesOf(provider), _received() * FEE_BPS / 10_000);
    }

    /* 8: ANY ORDER */

    function testFuzz_any_order_ends_at_the_greatest(uint64 gpuHour, uint256 seed, uint8 sent) public {
        (bytes16 leaseNo, uint256 rate) = _openAt(uint64(bound(gpuHour, 1, 1000e9)));
        uint256[] memory figures = _figures(seed, MOST_MS);
        uint256 greatest = 0;
        for (uint256 i = 0; i < PARTS; i++) {
            if ((sent >> i) & 1 == 0) continue; // a relayer kept it back
            assertEq(_settle(leaseNo, uint64(figures[i])), figures[i] > greatest, "accepted");
            if (figures[i] > greatest) greatest = figures[i];
        }
        assertEq(_lease(leaseNo).usedMs, greatest);
        assertEq(_received(), _total(rate, greatest));
    }

    function testFuzz_any_order_in_one_batch_ends_at_the_greatest(uint64 gpuHour, uint256 seed) public {
        (bytes16 leaseNo, uint256 rate) = _openAt(uint64(bound(gpuHour, 1, 1000e9)));
        uint256[] memory figures = _figures(seed, MOST_MS);
        bytes memory entries = abi.encodePacked(provider, uint16(PARTS));
        for (uint256 i = 0; i < PARTS; i++) {
            entries = bytes.concat(entries, _entry(leaseNo, uint64(figures[i])));
        }
        escrow.settle(entries);
        assertEq(_lease(leaseNo).usedMs, _greatest(figures));
        assertEq(_received(), _total(rate, _greatest(figures)));
    }

    function testFuzz_any_order_of_counted_ends_at_the_greatest_of_each(uint256 seed) public {
        bytes16 leaseNo = _openCounted();
        vm.warp(block.timestamp + 4200);
        (uint256[] memory ms, uint256[] memory egress) = (_figures(seed, MOST_MS), _figures(seed ^ 1, 20_000));
        uint256[] memory units = _figures(seed ^ 2, 10_000);
        for (uint256 i = 0; i < PARTS; i++) {
            _settleMetered(leaseNo, uint64(ms[i]), uint32(egress[i]), uint32(units[i]));
        }
        Counted memory counted = _counted(leaseNo);
        assertEq(_lease(leaseNo).usedMs, _greatest(ms));
        assertEq(counted.egressMib, _greatest(egress) > 10_240 ? 10_240 : _greatest(egress));
        assertEq(counted.units, _greatest(units) > 5000 ? 5000 : _greatest(units));
        assertEq(_received(), _lease(leaseNo).released);
    }

    /* 17: FEES */

    /// @dev Settled in parts and closed further on: what left the lock is the provider's net and the fee, nothing else.
    function testFuzz_fee_and_net_are_gross(uint64 gpuHour, uint256 seed, uint16 feeBps) public {
        feeBps = uint16(bound(feeBps, 0, 500)); // what the orders accept
        escrow = _newEscrow(address(token), feeBps);
        _fund(buyer, FUNDS);
        (bytes16 leaseNo, uint256 rate) = _openAt(uint64(bound(gpuHour, 1, 1000e9)));
        uint256[] memory figures = _figures(seed, MOST_MS);
        for (uint256 i = 0; i < PARTS; i++) {
            _settle(leaseNo, uint64(figures[i]));
        }
        uint256 gross = _total(rate, _greatest(figures));
        assertEq(escrow.feesOf(provider), gross * feeBps / 10_000, "fee");
        assertEq(escrow.balanceOf(provider), gross - escrow.feesOf(provider), "net");
        Lease memory lease = _lease(leaseNo);
        assertEq(lease.released, gross, "gross");
        assertEq(escrow.balanceOf(buyer), FUNDS - gross - lease.locked, "buyer");
    }
}
