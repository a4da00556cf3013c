// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Test} from "forge-std/Test.sol";

import {ComputeToken} from "../../src/ComputeToken.sol";
import {
    Ask,
    Bid,
    CloseData,
    Counted,
    IComputeEscrow,
    Lease,
    LeaseKey,
    LeaseState,
    Match,
    Numbered,
    Previous,
    Prices,
    Terms,
    TierLimit
} from "../../src/interfaces/IComputeEscrow.sol";
import {newEscrow} from "./Shipped.sol";
import {TypedData} from "./TypedData.sol";

/// @notice A deployed escrow, funded parties with keys, and builders of orders, entries and signatures.
abstract contract EscrowTest is Test {
    uint256 internal constant FEE_BPS = 250;
    uint256 internal constant SETTLE_WINDOW = 1 hours;
    bytes32 internal constant TIER = "H100-80GB-SXM";
    bytes32 internal constant UNIT = "request";
    uint256 internal constant FUNDS = 10_000e18;

    ComputeToken internal token;
    IComputeEscrow internal escrow;

    uint256 internal buyerKey;
    uint256 internal providerKey;
    uint256 internal witnessKey;
    uint256 internal meterKey;
    address internal buyer;
    address internal provider;
    address internal witness;
    address internal meter;
    address internal stranger = makeAddr("stranger");
    address internal feeRecipient = makeAddr("fee recipient");

    function setUp() public virtual {
        vm.warp(1_700_000_000);
        (buyer, buyerKey) = makeAddrAndKey("buyer");
        (provider, providerKey) = makeAddrAndKey("provider");
        (witness, witnessKey) = makeAddrAndKey("witness");
        (meter, meterKey) = makeAddrAndKey("meter");
        token = new ComputeToken(address(this), 1_000_000_000e18);
        escrow = _newEscrow(address(token), FEE_BPS);
        _fund(buyer, FUNDS);
    }

    function _newEscrow(address token_, uint256 feeBps) internal returns (IComputeEscrow) {
        return newEscrow(vm, Terms(token_, feeBps, feeRecipient, SETTLE_WINDOW));
    }

    /// @dev Gives the account a free balance in the escrow.
    function _fund(address account, uint256 amount) internal {
        token.transfer(account, amount);
        vm.startPrank(account);
        token.approve(address(escrow), amount);
        escrow.deposit(amount);
        vm.stopPrank();
    }

    /* ORDERS */

    /// @dev 2.50 per GPU hour and the rest for free: an hour of one GPU is 2.5 tokens.
    function _ask() internal view returns (Ask memory ask) {
        ask.provider = provider;
        ask.meter = meter;
        ask.node = 7;
        ask.tier = TIER;
        ask.gpuMilli = 8000;
        ask.cpuMilli = 64_000;
        ask.memoryMib = 524_288;
        ask.storageMib = 1_048_576;
        ask.floor = Prices(2.5e9, 0, 0, 0, 0, 0);
        ask.minSeconds = 60;
        ask.maxSeconds = 24 hours;
        ask.startLimitSeconds = 600;
        ask.maxFeeBps = 500;
        ask.expiry = uint40(block.timestamp + 1 days);
        ask.salt = 1;
    }

    function _bid() internal view returns (Bid memory bid) {
        bid.buyer = buyer;
        bid.witness = witness;
        bid.jobHash = keccak256("job");
        bid.limits = new TierLimit[](1);
        bid.limits[0] = TierLimit(TIER, 10e12, 1e9, 1e9);
        bid.gpuMilli = 1000;
        bid.cpuMilli = 8000;
        bid.memoryMib = 65_536;
        bid.storageMib = 131_072;
        bid.maxSeconds = 1 hours;
        bid.maxStartSeconds = 600;
        bid.budget = 100e18;
        bid.nodes = 1;
        bid.maxFeeBps = 500;
        bid.expiry = uint40(block.timestamp + 1 days);
        bid.salt = 1;
    }

    /// @dev Another bid of the usual buyer.
    function _bidOf(uint64 salt) internal view returns (Bid memory bid) {
        bid = _bid();
        bid.salt = salt;
    }

    /// @dev As `_ask` and `_bid`, the same at any time.
    function _lastingOrders() internal view returns (Ask memory ask, Bid memory bid) {
        (ask, bid) = (_ask(), _bid());
        (ask.expiry, bid.expiry) = (type(uint40).max, type(uint40).max);
    }

    /// @dev As `_ask` and `_bid`, with egress at 0.08 per GiB and requests at 0.001.
    function _countedOrders() internal view returns (Ask memory ask, Bid memory bid) {
        (ask, bid) = (_ask(), _bid());
        ask.floor.egressGib = 0.08e9;
        ask.floor.unit = 0.001e9;
        ask.unit = UNIT;
        bid.unit = UNIT;
        bid.egressMib = 10 * 1024;
        bid.units = 5000;
    }

    /// @dev Both orders signed by the usual accounts, no quote.
    function _match(Ask memory ask, Bid memory bid) internal view returns (Match memory order) {
        order.ask = ask;
        order.bid = bid;
        order.askSignature = _sign(providerKey, TypedData.hash(ask));
        order.bidSignature = _sign(buyerKey, TypedData.hash(bid));
    }

    function _open() internal returns (bytes16) {
        return escrow.open(_match(_ask(), _bid()));
    }

    function _openCounted() internal returns (bytes16) {
        (Ask memory ask, Bid memory bid) = _countedOrders();
        return escrow.open(_match(ask, bid));
    }

    /// @dev What a lease of seat 0 at the ask's own prices is opened from.
    function _termsHash(Ask memory ask, Bid memory bid) internal pure returns (bytes32) {
        return _termsHash(ask, bid, ask.floor, 0);
    }

    function _termsHash(Ask memory ask, Bid memory bid, Prices memory prices, uint16 seat)
        internal
        pure
        returns (bytes32)
    {
        return keccak256(abi.encode(TypedData.hash(bid), TypedData.hash(ask), TypedData.hash(prices), seat));
    }

    function _leaseNo(Ask memory ask, Bid memory bid) internal pure returns (bytes16) {
        return _leaseNo(ask, bid, ask.floor, 0);
    }

    function _leaseNo(Ask memory ask, Bid memory bid, Prices memory prices, uint16 seat)
        internal
        pure
        returns (bytes16)
    {
        return bytes16(keccak256(abi.encode(_termsHash(ask, bid, prices, seat), ask.meter)));
    }

    /// @dev A lease of the usual parties.
    function _key(bytes16 leaseNo) internal view returns (LeaseKey memory) {
        return LeaseKey(buyer, provider, witness, leaseNo);
    }

    /// @dev A list of one lease of the usual parties.
    function _keys(bytes16 leaseNo) internal view returns (LeaseKey[] memory keys) {
        keys = new LeaseKey[](1);
        keys[0] = _key(leaseNo);
    }

    /// @dev The lease of this ask, at its own prices, as the one that another follows.
    function _previous(Ask memory ask) internal pure returns (Previous memory) {
        return Previous(ask.provider, TypedData.hash(ask), TypedData.hash(ask.floor), ask.meter);
    }

    /* SIGNATURES */

    function _digest(bytes32 structHash) internal view returns (bytes32) {
        return TypedData.digest(TypedData.domain(block.chainid, address(escrow)), structHash);
    }

    function _sign(uint256 key, bytes32 structHash) internal view returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, _digest(structHash));
        return abi.encodePacked(r, s, v);
    }

    function _compact(uint256 key, bytes32 structHash) internal view returns (bytes32 r, bytes32 vs) {
        return vm.signCompact(key, _digest(structHash));
    }

    /* ENTRIES */

    /// @dev One witnessed entry for the usual buyer and provider.
    function _entry(bytes16 leaseNo, uint64 ms) internal view returns (bytes memory) {
        return _entryBy(witnessKey, buyer, provider, leaseNo, ms);
    }

    function _entryBy(uint256 key, address buyer_, address provider_, bytes16 leaseNo, uint64 ms)
        internal
        view
        returns (bytes memory)
    {
        (bytes32 r, bytes32 vs) = _compact(key, TypedData.usage(buyer_, provider_, leaseNo, ms));
        return abi.encodePacked(buyer_, leaseNo, uint40(ms), r, vs);
    }

    function _meteredEntry(bytes16 leaseNo, uint64 ms, uint32 egressMib, uint32 units)
        internal
        view
        returns (bytes memory)
    {
        bytes32 structHash = TypedData.metered(buyer, provider, leaseNo, ms, egressMib, units);
        (bytes32 r, bytes32 vs) = _compact(witnessKey, structHash);
        return abi.encodePacked(buyer, leaseNo, uint40(ms), egressMib, units, r, vs);
    }

    /// @dev A run of one entry for the usual provider.
    function _single(bytes memory entry) internal view returns (bytes memory) {
        return abi.encodePacked(provider, uint16(1), entry);
    }

    /// @dev Settles one entry and says whether it was accepted.
    function _settle(bytes16 leaseNo, uint64 ms) internal returns (bool) {
        return escrow.settle(_single(_entry(leaseNo, ms)))[0] == 0;
    }

    function _settleMetered(bytes16 leaseNo, uint64 ms, uint32 egressMib, uint32 units) internal returns (bool) {
        return escrow.settleMetered(_single(_meteredEntry(leaseNo, ms, egressMib, units)))[0] == 0;
    }

    /* ENDING */

    /// @dev Closes a lease of these orders by the usual meter and witness.
    function _close(Ask memory ask, Bid memory bid, uint64 ms, uint32 egressMib, uint32 units) internal {
        _close(_closeData(ask, bid, ms, egressMib, units));
    }

    /// @dev Closes a lease by the usual meter and witness.
    function _close(CloseData memory data) internal {
        (bytes32 meterR, bytes32 meterVs) = _compact(meterKey, TypedData.close(data));
        (bytes32 witnessR, bytes32 witnessVs) = _compact(witnessKey, TypedData.close(data));
        escrow.close(data, meterR, meterVs, witnessR, witnessVs);
    }

    function _closeData(Ask memory ask, Bid memory bid, uint64 ms, uint32 egressMib, uint32 units)
        internal
        pure
        returns (CloseData memory)
    {
        return CloseData({
            buyer: bid.buyer,
            provider: ask.provider,
            leaseNo: _leaseNo(ask, bid),
            ms: ms,
            egressMib: egressMib,
            units: units,
            again: false,
            termsHash: _termsHash(ask, bid)
        });
    }

    /* EXPECTING */

    /// @dev The next call must revert with this error of two words: what was expected, what was given.
    function _expect(bytes4 selector, uint256 expected, uint256 given) internal {
        vm.expectRevert(abi.encodeWithSelector(selector, expected, given));
    }

    function _expect(bytes4 selector, bytes32 word) internal {
        vm.expectRevert(abi.encodeWithSelector(selector, word));
    }

    function _expect(bytes4 selector, address account) internal {
        vm.expectRevert(abi.encodeWithSelector(selector, account));
    }

    /// @dev The next call must revert with this error of a lease and the state that it is in.
    function _expectState(bytes4 selector, bytes16 leaseNo, LeaseState state) internal {
        vm.expectRevert(abi.encodeWithSelector(selector, leaseNo, state));
    }

    /* READING */

    function _lease(bytes16 leaseNo) internal view returns (Lease memory) {
        return escrow.lease(_key(leaseNo));
    }

    function _counted(bytes16 leaseNo) internal view returns (Counted memory) {
        return escrow.counted(_key(leaseNo));
    }

    /// @dev Whether a bid of the account with this salt has opened.
    function _isUsed(address account, uint64 salt) internal view returns (bool used) {
        (used,) = escrow.saltState(account, Numbered.Orders, salt);
    }

    /// @dev Fails unless the escrow holds exactly what it owes to the usual accounts and for these leases.
    function _assertConserved(bytes16[] memory leaseNos) internal view {
        uint256 owed = escrow.balanceOf(buyer) + escrow.balanceOf(provider) + escrow.balanceOf(feeRecipient);
        owed += escrow.feesOf(provider);
        for (uint256 i = 0; i < leaseNos.length; i++) {
            owed += _lease(leaseNos[i]).locked;
        }
        assertEq(token.balanceOf(address(escrow)), owed, "holdings");
    }

    function _assertState(bytes16 leaseNo, LeaseState state) internal view {
        assertEq(uint256(_lease(leaseNo).state), uint256(state), "state");
    }
}
