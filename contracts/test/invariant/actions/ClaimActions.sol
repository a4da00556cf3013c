// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {LeaseOrders, LeaseState} from "../../../src/interfaces/IComputeEscrow.sol";
import {TypedData} from "../../support/TypedData.sol";
import {World} from "../World.sol";

/// @notice Claims for time that no witness signed, contests, rulings by an arbiter of any mind, and their ends.
abstract contract ClaimActions is World {
    uint256 private constant CLAIM_MS_MAX = 120_000;

    /// @dev While the window lasts nobody can keep a provider from it that has the bond.
    function claim(uint256 seed) external acting(seed) {
        if (_known.length == 0) return;
        uint256 index = _pick(_openSet());
        Known storage k = _known[index];
        if (_isOpen(k.seen)) _edge(12, k.seen.end + ESCROW.settleWindow());
        LeaseOrders memory orders = _orders(k);
        if (_once(8)) orders.ask.arbiter = stranger; // another ask: another lease
        address sender = _once(6) ? _anyone() : k.provider;
        uint256 elapsed = (vm.getBlockTimestamp() - k.seen.start) * 1000;
        uint256 ms = k.seen.usedMs + _draw(_least(elapsed + 2000, CLAIM_MS_MAX + 5000));
        bool may = _claims(k, ms) && orders.ask.arbiter == k.arbiter && sender == k.provider;
        _touch(index, may);
        _do("claim", may, sender, abi.encodeCall(ESCROW.claim, (orders, uint64(ms))));
    }

    function _claims(Known storage k, uint256 ms) private view returns (bool) {
        uint256 time = vm.getBlockTimestamp();
        if (k.arbiter == address(0) || !_isOpen(k.seen) || time > k.seen.end + ESCROW.settleWindow()) return false;
        uint256 most = _least(k.seen.usedMs + CLAIM_MS_MAX, (_least(k.seen.end, time) - k.seen.start) * 1000);
        if (ms <= k.seen.usedMs || ms > most) return false;
        uint256 paidMs = k.seen.usedMs == 0 ? 0 : _most(k.seen.usedMs, uint256(k.seen.minChargeSeconds) * 1000);
        (uint256 paid, uint256 total) = (_down(k.seen.rate, paidMs), _down(k.seen.rate, ms));
        return total > paid && total - paid <= _balances[k.provider];
    }

    function contest(uint256 seed) external acting(seed) {
        if (_known.length == 0) return;
        uint256 index = _pick(_set(LeaseState.Claimed));
        Known storage k = _known[index];
        if (k.seen.state == LeaseState.Claimed) _edge(8, k.claim.until);
        address sender = _once(6) ? _anyone() : k.buyer;
        bool may = sender == k.buyer && k.seen.state == LeaseState.Claimed && vm.getBlockTimestamp() <= k.claim.until
            && _balances[k.buyer] >= k.claim.amount;
        _touch(index, may);
        _do("contest", may, sender, _named(ESCROW.contest, k));
    }

    /// @dev The arbiter is fair, unfair, bought or asleep; what it rules moves this claim and these bonds and no more.
    function rule(uint256 seed) external acting(seed) {
        if (_known.length == 0) return;
        uint256 index = _pick(_set(LeaseState.Contested));
        Known storage k = _known[index];
        if (k.seen.state == LeaseState.Contested) _edge(8, k.claim.until);
        uint128 amount = k.claim.amount;
        uint128 award = [0, amount, uint128(_draw(uint256(amount) + 1)), amount + 1][_draw(4)];
        (address sender, bytes memory signature, bool consents) = _consent(k, award);
        bool may = consents && k.seen.state == LeaseState.Contested && vm.getBlockTimestamp() <= k.claim.until
            && award <= amount;
        if (may) k.won += 2 * int256(uint256(award)) - int256(uint256(amount));
        _touch(index, may);
        _do("rule", may, sender, abi.encodeCall(ESCROW.rule, (_orders(k), award, signature)));
    }

    /// @dev The arbiter calls or signs; or somebody else does, or its ruling is for another award or another lease.
    function _consent(Known storage k, uint128 award)
        private
        returns (address sender, bytes memory signature, bool consents)
    {
        uint256 how = _draw(8);
        sender = how < 3 ? arbiter : _anyone();
        address signer = how == 3 ? _anyone() : arbiter;
        bytes16 leaseNo = how == 4 ? _known[_draw(_known.length)].leaseNo : k.leaseNo;
        uint128 signed = how == 5 ? award / 2 : award;
        signature = _sign(signer, TypedData.ruling(k.buyer, k.provider, leaseNo, signed));
        consents = sender == arbiter || (signer == arbiter && leaseNo == k.leaseNo && signed == award);
        if (k.arbiter != arbiter) consents = false;
    }

    /// @dev Anyone closes a claim whose window is over, and not sooner.
    function closeClaim(uint256 seed) external acting(seed) {
        if (_known.length == 0) return;
        uint256 index = _pick(_set(LeaseState.Claimed) | _set(LeaseState.Contested));
        Known storage k = _known[index];
        LeaseState state = k.seen.state;
        bool pending = state == LeaseState.Claimed || state == LeaseState.Contested;
        if (pending) _edge(3, k.claim.until);
        bool may = pending && vm.getBlockTimestamp() > k.claim.until;
        _touch(index, may);
        _do(
            state == LeaseState.Contested ? bytes32("closeContested") : bytes32("closeClaim"),
            may,
            _anyone(),
            _named(ESCROW.closeClaim, k)
        );
    }
}
