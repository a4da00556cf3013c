// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Ledger} from "../../src/escrow/Ledger.sol";
import {Claim, IEscrowExtension, LeaseState} from "../../src/interfaces/IComputeEscrow.sol";
import {CountedSlot, LeaseSlot} from "../../src/libraries/LeaseSlot.sol";
import {Units} from "../../src/libraries/Units.sol";
import {EscrowProofs} from "./EscrowProofs.sol";

/// @notice claim, contest, rule and closeClaim, from any state of a lease.
/// @dev Assumed: no fee, so that awards are not divided; check_settle_conserves divides.
contract ClaimingProofs is EscrowProofs {
    uint256 private constant CLAIM_MS_MAX = 120_000;
    uint256 private constant CLAIMED_BIT = 0x40;

    function _feeBps() internal pure override returns (uint256) {
        return 0;
    }

    function _claim(uint64 ms) private view returns (bytes memory) {
        return abi.encodeCall(IEscrowExtension.claim, (orders, ms));
    }

    function _contest() private view returns (bytes memory) {
        return abi.encodeCall(IEscrowExtension.contest, (BUYER, PROVIDER, WITNESS, leaseNo));
    }

    function _rule(uint128 award) private view returns (bytes memory) {
        return abi.encodeCall(IEscrowExtension.rule, (orders, award, ""));
    }

    function _closeClaim() private view returns (bytes memory) {
        return abi.encodeCall(IEscrowExtension.closeClaim, (BUYER, PROVIDER, WITNESS, leaseNo));
    }

    struct Case {
        uint256 word;
        uint40 time;
        uint96 buyerHas;
        uint96 providerHas;
        uint96 amount;
        uint40 until;
    }

    /// @dev A claimed or contested lease, at this time. Assumed: all balances and the pot are below 2^96 together, by
    /// quarters; the lease is free but for the claim, as amounts paid before do not move.
    function _beginClaimed(Case calldata c, LeaseState state) private returns (LeaseSlot slot) {
        slot = LeaseSlot.wrap(_bits(_freeSlot(c.word, state)) | CLAIMED_BIT);
        vm.assume(c.amount < 1 << 93);
        vm.assume(c.buyerHas < 1 << 93);
        vm.assume(c.providerHas < 1 << 93);
        _begin(slot, c.time, c.buyerHas, c.providerHas);
        open.put(key, slot, CountedSlot.wrap(0), Claim(c.amount, c.until));
    }

    function _claimed() private view returns (Claim memory) {
        return escrow.claimOf(BUYER, PROVIDER, WITNESS, leaseNo);
    }

    uint40 private constant END = 1 << 38;

    /// @dev A stopped lease of any rate, usage and length. Assumed: it ended at `END`; no minimum charge.
    function _ended(uint64 rate, uint40 used, uint32 funded) private pure returns (LeaseSlot) {
        uint256 word = (uint256(rate) << 192) | (uint256(END) << 112) | (uint256(funded) << 80);
        return _slot(word, LeaseState.Stopped).withUsedMs(used);
    }

    /// @notice A claim holds its amount and as much again of the provider's; all else of the lock goes to the buyer.
    /// @dev Assumed: nothing was used, and the claim is made at the end.
    function check_claim_conserves(uint64 rate, uint32 funded, uint96 has, uint64 ms) external {
        LeaseSlot slot = _ended(rate, 0, funded);
        uint256 lock = slot.fullTime(SCALE);
        vm.assume(lock <= type(uint96).max);
        vm.assume(Units.costDown(rate, ms, SCALE) <= lock); // fuzzed: testFuzz_costs_and_fees_grow_with_time
        _begin(slot, END, 0, has);
        vm.assume(_try(PROVIDER, _claim(ms)));
        uint256 amount = _claimed().amount;
        unchecked {
            assert(open.accountOf(PROVIDER).balance == has - amount);
            assert(open.accountOf(BUYER).balance == lock - amount);
        }
        assert(_bits(open.slotOf(key)) == _bits(slot.withClaim()));
    }

    /// @notice In the window, its last second included, the provider's claim goes through with the bond, not without.
    /// @dev Assumed: 2.50 an hour for an hour, and the longest claim after a minute was settled, or the shortest after
    /// nothing was, since products of two unknowns are hard to solve for.
    function check_longest_claim_is_live_in_the_window(uint40 time, uint96 has) external {
        _claimIsLive(60_000, 180_000, time, has);
    }

    function check_shortest_claim_is_live_in_the_window(uint40 time, uint96 has) external {
        _claimIsLive(0, 1, time, has);
    }

    function _claimIsLive(uint40 used, uint40 ms, uint40 time, uint96 has) private {
        vm.assume(END <= time);
        vm.assume(time <= END + SETTLE_WINDOW);
        uint256 bond = Units.costDown(2.5e12, ms, SCALE) - Units.costDown(2.5e12, used, SCALE);
        _begin(_ended(2.5e12, used, 3600), time, 0, has);
        assert(_try(PROVIDER, _claim(ms)) == (has >= bond));
    }

    /// @notice A claim is the provider's alone.
    function check_claim_is_for_the_provider(uint256 word, uint40 time, uint64 ms, address sender) external {
        vm.assume(sender != PROVIDER);
        _begin(_slot(word, LeaseState.Active), time, 0, type(uint96).max);
        assert(!_try(sender, _claim(ms)));
    }

    /// @notice A lease is claimed once, while it is open.
    function check_claim_is_for_open_leases(uint256 word, uint40 time, uint64 ms) external {
        for (uint256 state = 0; state <= uint256(LeaseState.Closed); state++) {
            if (state == uint256(LeaseState.Active) || state == uint256(LeaseState.Stopped)) continue;
            _begin(_slot(word, LeaseState(state)), time, 0, type(uint96).max);
            assert(!_try(PROVIDER, _claim(ms)));
        }
    }

    /// @notice No claim goes through of more than two minutes on top of what was settled.
    function check_claim_is_bounded_by_usage(uint64 rate, uint40 used, uint32 funded, uint64 ms) external {
        vm.assume(ms > used + CLAIM_MS_MAX);
        _begin(_ended(rate, used, funded), END, 0, type(uint96).max);
        assert(!_try(PROVIDER, _claim(ms)));
    }

    /// @notice No claim goes through above the lease's time.
    function check_claim_is_bounded_by_funded_time(uint64 rate, uint40 used, uint32 funded, uint64 ms) external {
        unchecked {
            vm.assume(ms > uint256(funded) * 1000);
        }
        _begin(_ended(rate, used, funded), END, 0, type(uint96).max);
        assert(!_try(PROVIDER, _claim(ms)));
    }

    /// @notice No claim goes through after the window.
    function check_claim_is_bounded_by_the_window(uint64 rate, uint40 used, uint32 funded, uint64 ms, uint40 time)
        external
    {
        vm.assume(time > END + SETTLE_WINDOW);
        _begin(_ended(rate, used, funded), time, 0, type(uint96).max);
        assert(!_try(PROVIDER, _claim(ms)));
    }

    /// @notice A contest moves a bond as large as the claim from the buyer, until the window's last second.
    function check_contest_conserves(Case calldata c) external {
        LeaseSlot slot = _beginClaimed(c, LeaseState.Claimed);
        vm.assume(c.amount <= c.buyerHas);
        assert(_try(BUYER, _contest()) == (c.time <= c.until));
        vm.assume(c.time <= c.until);
        assert(open.accountOf(BUYER).balance == c.buyerHas - c.amount);
        assert(open.accountOf(PROVIDER).balance == c.providerHas);
        assert(_bits(open.slotOf(key)) == _bits(slot.withState(LeaseState.Contested)));
        assert(_claimed().until == uint40(c.time + RULING_WINDOW));
    }

    /// @notice Only the buyer contests, and without the bond not even the buyer.
    function check_contest_is_for_the_buyer(Case calldata c, address sender) external {
        _beginClaimed(c, LeaseState.Claimed);
        vm.assume(sender != BUYER || c.amount > c.buyerHas);
        assert(!_try(sender, _contest()));
    }

    /// @notice A ruling divides amount and both bonds, all of it, and closes the lease.
    /// @dev Assumed: amounts below 2^16, since products that are checked for overflow are hard to solve for.
    function check_rule_conserves(Case calldata c, uint16 amount, uint16 award) external {
        LeaseSlot slot = _beginClaimed(c, LeaseState.Contested);
        open.put(key, slot, CountedSlot.wrap(0), Claim(amount, c.until));
        vm.assume(award <= amount);
        vm.assume(_try(ARBITER, _rule(award)));
        unchecked {
            assert(open.accountOf(PROVIDER).balance == uint256(c.providerHas) + 3 * uint256(award));
            assert(open.accountOf(BUYER).balance == uint256(c.buyerHas) + 3 * (uint256(amount) - award));
        }
        assert(_bits(open.slotOf(key)) == _bits(slot.withState(LeaseState.Closed)));
    }

    /// @notice No ruling comes after the window, nor from anybody but the arbiter without a signature.
    function check_rule_is_for_the_arbiter_in_time(Case calldata c, uint128 award, address sender) external {
        _beginClaimed(c, LeaseState.Contested);
        vm.assume(c.time > c.until || sender != ARBITER);
        assert(!_try(sender, _rule(award)));
    }

    /// @notice No ruling awards more than was claimed.
    function check_rule_is_within_the_claim(Case calldata c, uint128 award) external {
        _beginClaimed(c, LeaseState.Contested);
        vm.assume(award > c.amount);
        assert(!_try(ARBITER, _rule(award)));
    }

    /// @notice After the window, not in its last second, anyone closes a claim that nobody contested: amount and bond are
    /// the provider's.
    function check_uncontested_claim_conserves(Case calldata c, address sender) external {
        LeaseSlot slot = _beginClaimed(c, LeaseState.Claimed);
        assert(_try(sender, _closeClaim()) == (c.time > c.until));
        vm.assume(c.time > c.until);
        unchecked {
            assert(open.accountOf(BUYER).balance == c.buyerHas);
            assert(_held() == uint256(c.buyerHas) + c.providerHas + 2 * uint256(c.amount));
        }
        assert(_bits(open.slotOf(key)) == _bits(slot.withState(LeaseState.Closed)));
    }

    /// @notice After the window, not in its last second, anyone closes a contest on which nobody ruled: the amount is the
    /// buyer's, each bond its owner's.
    function check_unruled_contest_conserves(Case calldata c, address sender) external {
        LeaseSlot slot = _beginClaimed(c, LeaseState.Contested);
        assert(_try(sender, _closeClaim()) == (c.time > c.until));
        vm.assume(c.time > c.until);
        unchecked {
            assert(open.accountOf(BUYER).balance == uint256(c.buyerHas) + 2 * uint256(c.amount));
            assert(open.accountOf(PROVIDER).balance == uint256(c.providerHas) + c.amount);
        }
        assert(_bits(open.slotOf(key)) == _bits(slot.withState(LeaseState.Closed)));
    }

    /// @notice From no state but claimed and contested does a step of a claim go through: a closed lease stays closed.
    function check_claim_steps_need_a_claim(Case calldata c, uint128 award) external {
        for (uint256 i = 0; i <= uint256(LeaseState.Closed); i++) {
            LeaseState state = LeaseState(i);
            _beginClaimed(c, state);
            if (state != LeaseState.Claimed) assert(!_try(BUYER, _contest()));
            if (state != LeaseState.Contested) assert(!_try(ARBITER, _rule(award)));
            if (state == LeaseState.Claimed || state == LeaseState.Contested) continue;
            assert(!_try(BUYER, _closeClaim()));
        }
    }
}
