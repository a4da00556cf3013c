// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Test} from "forge-std/Test.sol";

import {ComputeEscrow} from "../../src/ComputeEscrow.sol";
import {ComputeToken} from "../../src/ComputeToken.sol";
import {EscrowExtension} from "../../src/EscrowExtension.sol";
import {Ledger} from "../../src/escrow/Ledger.sol";
import {
    Ask,
    Bid,
    IComputeEscrow,
    LeaseKey,
    LeaseState,
    Purse,
    Terms,
    TierLimit
} from "../../src/interfaces/IComputeEscrow.sol";
import {CountedSlot, LeaseSlot} from "../../src/libraries/LeaseSlot.sol";
import {TypedData} from "../support/TypedData.sol";

/// @notice The escrow as it is, with its storage open: a proof puts in any state, calls, and reads what became of it.
contract OpenEscrow is ComputeEscrow {
    constructor(Terms memory terms, address extension) ComputeEscrow(terms, extension) {}

    function put(bytes32 key, LeaseSlot slot, CountedSlot counted_) external {
        LeaseBox storage box = _lease(key);
        (box.slot, box.counted) = (slot, counted_);
    }

    function putAccount(address account, Account calldata value) external {
        _accounts[account] = value;
    }

    function putCapacity(address provider, uint24 node, uint256 used) external {
        _capacity[provider][node] = CAPACITY_TOUCHED | used;
    }

    function putPurse(address account, Purse calldata value) external {
        _purses[account] = value;
    }

    function capacityOf(address provider, uint24 node) external view returns (uint256) {
        return _capacity[provider][node] & ~CAPACITY_TOUCHED;
    }

    function slotOf(bytes32 key) external view returns (LeaseSlot) {
        return _lease(key).slot;
    }

    function countedOf(bytes32 key) external view returns (CountedSlot) {
        return _lease(key).counted;
    }

    function accountOf(address account) external view returns (Account memory) {
        return _accounts[account];
    }
}

/// @notice One lease in any state, its parties' balances, and any time.
/// @dev Assumed in every proof here, and stated again nowhere: 18 decimals, a fee of 2.5 %, a settle window of
/// an hour; one lease; the fields of its slot hold what `_assumeSound` says. Everything else is as free as its type.
abstract contract EscrowProofs is Test {
    uint256 internal constant SCALE = 1e18;
    uint256 internal constant FEE_BPS = 250;
    uint256 internal constant SETTLE_WINDOW = 1 hours;
    address internal constant BUYER = address(0xb0b);
    address internal constant PROVIDER = address(0xcafe);
    address internal constant WITNESS = address(0x717e55);
    address internal constant METER = address(0x3e7e4);
    uint24 internal constant NODE = 7;
    address internal constant OWNER = address(0x0303);
    address internal constant OPERATOR = address(0x09e4);
    uint256 private constant FLAGS_AND_STATE = 0xff;
    uint256 private constant NODE_BITS = uint256(type(uint24).max) << 8;

    OpenEscrow internal open;
    IComputeEscrow internal escrow;
    bytes32 internal termsHash;
    bytes16 internal leaseNo;
    bytes32 internal key;

    function setUp() public virtual {
        ComputeToken token = new ComputeToken(address(this), type(uint96).max);
        Terms memory terms = Terms(address(token), FEE_BPS, address(0xfee), SETTLE_WINDOW);
        open = new OpenEscrow(terms, address(new EscrowExtension(terms)));
        escrow = IComputeEscrow(address(open));
        token.transfer(address(escrow), type(uint96).max);
        (Ask memory ask, Bid memory bid) = _orders();
        bytes32 bidHash = TypedData.hash(bid);
        termsHash = keccak256(abi.encode(bidHash, TypedData.hash(ask), TypedData.hash(ask.floor), uint16(0)));
        leaseNo = bytes16(keccak256(abi.encode(termsHash, METER)));
        key = _keyOf(WITNESS, leaseNo);
    }

    /// @dev What the lease was opened from: a GPU for 2.5 tokens an hour, for at most a day.
    function _orders() internal pure returns (Ask memory ask, Bid memory bid) {
        (ask.provider, ask.meter, ask.node, ask.gpuMilli) = (PROVIDER, METER, NODE, 8000);
        (ask.floor.gpuHour, ask.maxSeconds, ask.startLimitSeconds) = (2.5e9, 1 days, 600);
        (ask.maxFeeBps, ask.expiry, ask.salt) = (500, type(uint40).max, 1);
        (bid.buyer, bid.witness, bid.gpuMilli, bid.nodes) = (BUYER, WITNESS, 1000, 1);
        (bid.maxSeconds, bid.maxStartSeconds, bid.budget) = (1 hours, 600, 100e18);
        (bid.maxFeeBps, bid.expiry, bid.salt) = (500, type(uint40).max, 1);
        bid.limits = new TierLimit[](1);
        bid.limits[0].rate = type(uint64).max;
    }

    function _keyOf(address witness, bytes16 number) internal pure returns (bytes32) {
        return keccak256(abi.encode(witness, BUYER, PROVIDER, number));
    }

    function _named() internal view returns (LeaseKey memory) {
        return LeaseKey(BUYER, PROVIDER, WITNESS, leaseNo);
    }

    /// @dev A lease of any terms and usage in this state, without counted resources, on the usual node.
    function _slot(uint256 word, LeaseState state) internal pure returns (LeaseSlot) {
        return LeaseSlot.wrap((word & ~(FLAGS_AND_STATE | NODE_BITS)) | (uint256(NODE) << 8) | uint256(state));
    }

    /// @dev As `_slot`, of a free lease: for proofs of who, when and what state, in which money plays no part.
    function _freeSlot(uint256 word, LeaseState state) internal pure returns (LeaseSlot) {
        return _slot(word & ((1 << 192) - 1), state);
    }

    /// @dev As `_slot`, with a mark or without.
    function _marked(LeaseSlot slot, bool again) internal pure returns (LeaseSlot) {
        return again ? slot.withAgain() : slot;
    }

    /// @dev Its end is not before its start, and not all of its time is paid.
    function _assumeShaped(LeaseSlot slot) internal pure {
        vm.assume(slot.funded() <= slot.end());
        vm.assume(slot.startSeconds() <= slot.funded());
    }

    /// @dev What holds of every lease between two calls, and what the proofs show to hold after each call again: it
    /// started, its end is not before its start, its use is within paid and elapsed time.
    function _assumeSound(LeaseSlot slot, uint256 time) internal pure {
        _assumeShaped(slot);
        unchecked {
            vm.assume(slot.start() <= time);
            vm.assume(slot.usedMs() <= slot.paidSeconds() * 1000);
            vm.assume(slot.usedMs() <= (time - slot.start()) * 1000);
        }
    }

    function _assertSound(LeaseSlot slot, uint256 time) internal pure {
        unchecked {
            assert(slot.funded() <= slot.end());
            assert(slot.startSeconds() <= slot.funded());
            assert(slot.start() <= time);
            assert(slot.usedMs() <= slot.paidSeconds() * 1000);
            assert(slot.usedMs() <= (time - slot.start()) * 1000);
        }
    }

    function _bits(LeaseSlot slot) internal pure returns (uint256) {
        return LeaseSlot.unwrap(slot);
    }

    /// @dev Puts the lease in, at this time, with these free balances; capacity is held for it.
    function _begin(LeaseSlot slot, uint40 time, uint96 buyerHas, uint96 providerHas) internal {
        vm.warp(time);
        open.put(key, slot, CountedSlot.wrap(0));
        open.putAccount(BUYER, Ledger.Account(buyerHas, 0, 0));
        open.putAccount(PROVIDER, Ledger.Account(providerHas, 0, 0));
        open.putCapacity(PROVIDER, NODE, slot.gpuMilli());
    }

    /// @dev Balances and fees of both parties.
    function _held() internal view returns (uint256) {
        Ledger.Account memory buyer = open.accountOf(BUYER);
        Ledger.Account memory provider = open.accountOf(PROVIDER);
        unchecked {
            return uint256(buyer.balance) + buyer.fees + provider.balance + provider.fees;
        }
    }

    /// @dev Whether the call by `sender` went through.
    function _try(address sender, bytes memory data) internal returns (bool done) {
        vm.prank(sender);
        (done,) = address(escrow).call(data);
    }
}
