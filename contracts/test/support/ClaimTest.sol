// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Ask, Bid, IEscrowBase, LeaseOrders, LeaseState, Match, Previous} from "../../src/interfaces/IComputeEscrow.sol";
import {EscrowTest} from "./EscrowTest.sol";
import {TypedData} from "./TypedData.sol";

/// @notice A lease with a provider that can put up bonds, and the usual claim on it.
/// @dev 1000 s after the start, 900 s are settled and 72 s are claimed: 0.625 is paid, 0.05 claimed.
abstract contract ClaimTest is EscrowTest {
    uint256 internal constant BONDS = 10e18;
    uint256 internal constant BUDGET = 3e18;
    uint256 internal constant PAID = 0.625e18;
    uint256 internal constant PAID_FEE = 0.015625e18;
    uint256 internal constant AMOUNT = 0.05e18;
    uint256 internal constant AMOUNT_FEE = 0.00125e18;

    bytes16 internal _no;
    uint256 internal _start;
    uint256 internal _arbiterKey;

    function setUp() public virtual override {
        super.setUp();
        (, _arbiterKey) = makeAddrAndKey("arbiter");
        _fund(provider, BONDS);
        _no = escrow.open(_match(_theAsk(), _theBid()));
        _start = block.timestamp;
    }

    function _theAsk() internal view returns (Ask memory ask) {
        (ask,) = _lastingOrders();
    }

    function _theBid() internal view returns (Bid memory bid) {
        (, bid) = _lastingOrders();
        bid.budget = uint128(BUDGET);
    }

    function _theOrders() internal view returns (LeaseOrders memory) {
        return _leaseOrders(_theAsk(), _theBid());
    }

    /* STEPS */

    function _settled() internal {
        vm.warp(_start + 1000);
        assertTrue(_settle(_no, 900_000));
    }

    function _claim(uint64 ms) internal {
        vm.prank(provider);
        escrow.claim(_theOrders(), ms);
    }

    function _claimed() internal {
        _settled();
        _claim(972_000);
    }

    function _contest() internal {
        vm.prank(buyer);
        escrow.contest(buyer, provider, witness, _no);
    }

    function _contested() internal {
        _claimed();
        _contest();
    }

    function _rule(uint128 award) internal {
        vm.prank(arbiter);
        escrow.rule(_theOrders(), award, "");
    }

    function _closeClaim() internal {
        vm.prank(stranger);
        escrow.closeClaim(buyer, provider, witness, _no);
    }

    function _until() internal view returns (uint256) {
        return escrow.claimOf(buyer, provider, witness, _no).until;
    }

    /* ASSERTING */

    /// @dev Fails unless the free balances and fees are these, and holdings cover them, the lock and the bonds.
    function _assertBalances(uint256 buyer_, uint256 provider_, uint256 fees, uint256 bonds) internal view {
        assertEq(escrow.balanceOf(buyer), buyer_, "buyer");
        assertEq(escrow.balanceOf(provider), provider_, "provider");
        assertEq(escrow.feesOf(provider), fees, "fees");
        assertEq(escrow.balanceOf(arbiter), 0, "arbiter");
        assertEq(buyer_ + provider_ + fees + bonds + _lease(_no).locked, token.balanceOf(address(escrow)), "holdings");
    }

    /// @dev Fails unless nothing but the claim's own course can move this lease, now and a month later.
    function _assertFrozen(LeaseState state) internal {
        for (uint256 i = 0; i < 2; i++) {
            assertFalse(_settle(_no, 1_000_000), "settle");
            _expectState(IEscrowBase.LeaseNotActive.selector, _no, state);
            vm.prank(buyer);
            escrow.stop(buyer, provider, witness, _no);
            (bytes32 r, bytes32 vs) = _compact(witnessKey, TypedData.stop(buyer, provider, _no));
            _expectState(IEscrowBase.LeaseNotActive.selector, _no, state);
            escrow.stopBySignature(buyer, provider, witness, _no, 0, r, vs);
            _expectState(IEscrowBase.LeaseNotOpen.selector, _no, state);
            _close(_theAsk(), _theBid(), 1_000_000, 0, 0);
            _expectState(IEscrowBase.LeaseNotOpen.selector, _no, state);
            escrow.refund(buyer, provider, witness, _no);
            _expectState(IEscrowBase.LeaseNotActive.selector, _no, state);
            vm.prank(buyer);
            escrow.topUp(_theOrders(), _theBid(), 0, 1);
            _expectState(IEscrowBase.LeaseNotOpen.selector, _no, state);
            _claim(1_000_000);
            vm.warp(block.timestamp + 30 days);
        }
    }

    /// @dev Fails unless a lease that follows counts this much as spent, and may spend the rest of the budget.
    function _assertSpent(uint256 atoms) internal {
        Ask memory next = _theAsk();
        next.salt = 2;
        Match memory order = _match(next, _theBid());
        order.previous = Previous(provider, TypedData.hash(_theAsk()), meter);
        bytes16 leaseNo = escrow.open(order);
        (bytes16 latest, uint128 spent) = escrow.bidRecord(TypedData.hash(_theBid()), 0);
        assertEq(latest, leaseNo, "latest");
        assertEq(spent, atoms, "spent");
        uint256 funded = ((BUDGET - atoms) * 3600) / 2.5e18;
        assertLt(funded, 4200, "the budget limits it");
        assertEq(_lease(leaseNo).fundedSeconds, funded, "funded");
    }
}
