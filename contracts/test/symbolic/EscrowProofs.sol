// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Test} from "forge-std/Test.sol";

import {ComputeEscrow} from "../../src/ComputeEscrow.sol";
import {ComputeToken} from "../../src/ComputeToken.sol";
import {Ledger, Terms} from "../../src/escrow/Ledger.sol";
import {Ask, IComputeEscrow, LeaseOrders, LeaseState} from "../../src/interfaces/IComputeEscrow.sol";
import {CountedSlot, LeaseSlot} from "../../src/libraries/LeaseSlot.sol";
import {TypedData} from "../support/TypedData.sol";

/// @notice The escrow as it is, with its storage open: a proof puts in any state, calls, and reads what became of it.
contract OpenEscrow is ComputeEscrow {
    constructor(Terms memory terms) ComputeEscrow(terms) {}

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
    uint256 private constant LOW_BYTE = 0xff;
    uint256 private constant NODE_BITS = uint256(type(uint24).max) << 8;

    OpenEscrow internal open;
    IComputeEscrow internal escrow;
    LeaseOrders internal orders;
    bytes16 internal leaseNo;
    bytes32 internal key;

    function setUp() public virtual {
        ComputeToken token = new ComputeToken(address(this), type(uint96).max);
        open = new OpenEscrow(Terms(address(token), FEE_BPS, address(0xfee), SETTLE_WINDOW));
        escrow = IComputeEscrow(address(open));
        token.transfer(address(escrow), type(uint96).max);
        (orders.ask.provider, orders.ask.meter) = (PROVIDER, METER);
        (orders.bidHash, orders.buyer, orders.witness) = (bytes32(uint256(1)), BUYER, WITNESS);
        bytes32 ordersHash = keccak256(abi.encode(orders.bidHash, TypedData.hash(orders.ask)));
        leaseNo = bytes16(keccak256(abi.encode(ordersHash, METER)));
        key = keccak256(abi.encode(WITNESS, BUYER, PROVIDER, leaseNo));
    }

    /// @dev A lease of any terms and usage in this state, without counted resources, on the usual node.
    function _slot(uint256 word, LeaseState state) internal pure returns (LeaseSlot) {
        return LeaseSlot.wrap((word & ~(LOW_BYTE | NODE_BITS)) | (uint256(NODE) << 8) | uint256(state));
    }

    /// @dev As `_slot`, of a free lease: for proofs of who, when and what state, in which money plays no part.
    function _freeSlot(uint256 word, LeaseState state) internal pure returns (LeaseSlot) {
        return _slot(word & ((1 << 192) - 1), state);
    }

    /// @dev What holds of every lease between two calls, and what the proofs show to hold after each call again: it
    /// started, its end is not before its start, its use is within funded and elapsed time.
    function _assumeSound(LeaseSlot slot, uint256 time) internal pure {
        unchecked {
            vm.assume(slot.funded() <= slot.end());
            vm.assume(slot.start() <= time);
            vm.assume(slot.usedMs() <= slot.funded() * 1000);
            vm.assume(slot.usedMs() <= (time - slot.start()) * 1000);
        }
    }

    function _assertSound(LeaseSlot slot, uint256 time) internal pure {
        unchecked {
            assert(slot.funded() <= slot.end());
            assert(slot.start() <= time);
            assert(slot.usedMs() <= slot.funded() * 1000);
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
