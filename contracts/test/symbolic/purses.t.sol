// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {
    Ask,
    Bid,
    IEscrowCore,
    IEscrowExtension,
    LeaseState,
    Numbered,
    Purse,
    Relay
} from "../../src/interfaces/IComputeEscrow.sol";
import {LeaseSlot} from "../../src/libraries/LeaseSlot.sol";
import {Ledger} from "../../src/escrow/Ledger.sol";
import {TypedData} from "../support/TypedData.sol";
import {EscrowProofs} from "./EscrowProofs.sol";

/// @notice A purse: the buyer of the usual lease is one. What its owner, its operator and others can do with it; and calls by
/// signature.
contract PurseProofs is EscrowProofs {
    function _beginPurse(uint40 time, uint96 has, uint96 ownerHas, uint40 expiry) private {
        vm.warp(time);
        open.putPurse(BUYER, Purse(OWNER, expiry, OPERATOR));
        open.putAccount(BUYER, Ledger.Account(has, 0, 0));
        open.putAccount(OWNER, Ledger.Account(ownerHas, 0, 0));
    }

    function _balances() private view returns (uint256, uint256) {
        return (open.accountOf(BUYER).balance, open.accountOf(OWNER).balance);
    }

    /// @notice A sweep moves what is free in the purse to its owner, no more, and for the owner alone.
    function check_sweep_is_for_the_owner(
        uint40 time,
        uint96 has,
        uint96 ownerHas,
        uint40 expiry,
        uint256 amount,
        address sender
    ) external {
        vm.assume(uint256(has) + ownerHas <= type(uint96).max);
        _beginPurse(time, has, ownerHas, expiry);
        bool done = _try(sender, abi.encodeCall(IEscrowExtension.sweepPurse, (BUYER, amount)));
        assert(done == (sender == OWNER && amount > 0 && amount <= has));
        (uint256 left, uint256 owners) = _balances();
        assert(left == (done ? has - amount : has));
        assert(owners == (done ? ownerHas + amount : ownerHas));
    }

    /// @notice Its owner fills a purse from what the owner has, and nobody else does.
    function check_fund_is_for_the_owner(
        uint40 time,
        uint96 has,
        uint96 ownerHas,
        uint40 expiry,
        uint256 amount,
        address sender
    ) external {
        vm.assume(uint256(has) + ownerHas <= type(uint96).max);
        _beginPurse(time, has, ownerHas, expiry);
        bool done = _try(sender, abi.encodeCall(IEscrowExtension.fundPurse, (BUYER, amount)));
        assert(done == (sender == OWNER && amount > 0 && amount <= ownerHas));
        (uint256 left, uint256 owners) = _balances();
        assert(left == (done ? has + amount : has));
        assert(owners == (done ? ownerHas - amount : ownerHas));
    }

    /// @notice An expiry is brought forward by the owner alone, and never put off.
    function check_expiry_is_brought_forward_by_the_owner(uint40 time, uint40 expiry, uint40 next, address sender)
        external
    {
        _beginPurse(time, 0, 0, expiry);
        bool done = _try(sender, abi.encodeCall(IEscrowExtension.expirePurse, (BUYER, next)));
        assert(done == (sender == OWNER && next < expiry));
        Purse memory purse = escrow.purse(BUYER);
        assert(purse.owner == OWNER && purse.operator == OPERATOR);
        assert(purse.expiry == (done ? next : expiry));
    }

    /// @notice A purse once made is nobody else's: making it again fails.
    function check_purses_are_made_once(uint40 time, uint40 expiry, uint40 next, uint64 salt) external {
        vm.warp(time);
        address account = escrow.purseOf(OWNER, OPERATOR, salt);
        open.putPurse(account, Purse(OWNER, expiry, OPERATOR));
        assert(!_try(OWNER, abi.encodeCall(IEscrowExtension.createPurse, (OPERATOR, salt, next, 0))));
        assert(escrow.purse(account).expiry == expiry);
    }

    function _topUp(address sender, uint32 more) private returns (bool) {
        (Ask memory ask, Bid memory bid) = _orders();
        bytes32 pricesHash = TypedData.hash(ask.floor);
        return _try(sender, abi.encodeCall(IEscrowExtension.topUp, (ask, bid, pricesHash, 0, more)));
    }

    /// @notice A purse spends at most what is free in it, on the lock of a lease, until its expiry, by owner or operator.
    function check_a_purse_spends_no_more_than_it_has(
        uint256 word,
        uint40 time,
        uint96 has,
        uint40 expiry,
        uint32 more,
        address sender
    ) external {
        vm.assume(sender != BUYER); // no key calls for a purse
        vm.assume(sender != address(0));
        LeaseSlot slot = _slot(word, LeaseState.Active);
        _assumeShaped(slot);
        vm.assume(slot.end() < type(uint40).max - 1 days);
        vm.assume(slot.paidSeconds() + more <= 1 days);
        uint256 lock = slot.fullTime(SCALE);
        uint256 grown = slot.extended(more).fullTime(SCALE);
        vm.assume(lock <= grown); // fuzzed: testFuzz_costs_and_fees_grow_with_time
        _begin(slot, time, has, 0);
        _beginPurse(time, has, 0, expiry);
        vm.assume(_topUp(sender, more));
        assert(sender == OWNER || sender == OPERATOR);
        assert(time <= expiry);
        assert(grown - lock <= has);
        assert(open.accountOf(BUYER).balance == has - (grown - lock));
    }

    /// @notice An operator, or another that is not the owner, takes nothing out of a purse and sends nothing of it anywhere.
    function check_operators_take_nothing(
        uint40 time,
        uint96 has,
        uint40 expiry,
        uint256 amount,
        address sender,
        bytes32 r,
        bytes32 s
    ) external {
        vm.assume(sender != OWNER);
        vm.assume(sender != BUYER);
        _beginPurse(time, has, 0, expiry);
        assert(!_try(sender, abi.encodeCall(IEscrowExtension.sweepPurse, (BUYER, amount))));
        assert(!_try(sender, abi.encodeCall(IEscrowExtension.fundPurse, (BUYER, amount))));
        Relay memory relay;
        relay.deadline = type(uint40).max;
        bytes32 structHash = TypedData.withdraw(BUYER, OPERATOR, amount, relay);
        vm.assume(ecrecover(TypedData.digest(escrow.domainSeparator(), structHash), 27, r, s) != BUYER); // no key signs
        bytes memory signature = abi.encodePacked(r, s, uint8(27));
        bytes memory data =
            abi.encodeCall(IEscrowExtension.withdrawBySignature, (BUYER, OPERATOR, amount, relay, signature));
        assert(!_try(sender, data));
        (uint256 left,) = _balances();
        assert(left == has);
    }

    /* CALLS BY SIGNATURE */

    struct Signed {
        uint96 amount;
        uint64 salt;
        uint40 deadline;
        address relayer;
        uint96 fee;
        bytes32 r;
        bytes32 s;
    }

    /// @dev The call, and whose signature it bears.
    function _withdrawal(Signed calldata c, address account) private view returns (bytes memory data, address signer) {
        Relay memory relay = Relay(c.salt, c.deadline, c.relayer, c.fee);
        bytes32 structHash = TypedData.withdraw(account, METER, c.amount, relay);
        signer = ecrecover(TypedData.digest(escrow.domainSeparator(), structHash), 27, c.r, c.s);
        bytes memory signature = abi.encodePacked(c.r, c.s, uint8(27));
        data = abi.encodeCall(IEscrowExtension.withdrawBySignature, (account, METER, c.amount, relay, signature));
    }

    /// @notice Without the account's signature nothing leaves it, whoever calls.
    function check_withdrawals_need_the_accounts_signature(uint40 time, uint96 has, address sender, Signed calldata c)
        external
    {
        (bytes memory data, address signer) = _withdrawal(c, PROVIDER);
        vm.assume(signer != PROVIDER);
        vm.warp(time);
        open.putAccount(PROVIDER, Ledger.Account(has, 0, 0));
        assert(!_try(sender, data));
        assert(open.accountOf(PROVIDER).balance == has);
    }

    /// @notice What was signed is sent once, in time, by the relayer that it names; the fee is the sender's, from the amount.
    function check_withdrawals_are_sent_once(uint40 time, uint96 has, Signed calldata c) external {
        (bytes memory data, address signer) = _withdrawal(c, PROVIDER);
        vm.assume(signer == PROVIDER);
        vm.warp(time);
        open.putAccount(PROVIDER, Ledger.Account(has, 0, 0));
        vm.assume(_try(WITNESS, data));
        assert(time <= c.deadline);
        assert(c.relayer == address(0) || c.relayer == WITNESS);
        assert(c.fee < c.amount && c.amount <= has);
        assert(open.accountOf(PROVIDER).balance == has - c.amount);
        assert(open.accountOf(WITNESS).balance == c.fee);
        assert(!_try(WITNESS, data));
        assert(open.accountOf(PROVIDER).balance == has - c.amount);
    }

    /// @notice A call that the account cancelled is not sent.
    function check_cancelled_withdrawals_are_not_sent(uint40 time, uint96 has, bool andOlder, Signed calldata c)
        external
    {
        (bytes memory data, address signer) = _withdrawal(c, PROVIDER);
        vm.assume(signer == PROVIDER);
        vm.warp(time);
        open.putAccount(PROVIDER, Ledger.Account(has, 0, 0));
        bytes memory cancel = abi.encodeCall(IEscrowExtension.cancel, (PROVIDER, Numbered.Calls, c.salt, andOlder, ""));
        vm.assume(_try(PROVIDER, cancel));
        assert(!_try(WITNESS, data));
        assert(open.accountOf(PROVIDER).balance == has);
    }
}
