// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";

import {LeaseKey, LeaseState, Numbered, Purse} from "../interfaces/IComputeEscrow.sol";
import {Check} from "../libraries/Check.sol";
import {Hashes} from "../libraries/Hashes.sol";
import {CountedSlot, LeaseSlot} from "../libraries/LeaseSlot.sol";
import {Units} from "../libraries/Units.sol";
import {Ledger} from "./Ledger.sol";

/// @title Leases
/// @notice Where leases, orders and purses are kept, who speaks for an account, what leases have earned and hold.
/// @dev The escrow and its extension both stand on this: it has all the storage, in one order.
abstract contract Leases is Ledger {
    /* STORAGE */

    /// @dev All that is kept of a lease. Only leases with counted resources touch `counted`.
    struct LeaseBox {
        LeaseSlot slot;
        CountedSlot counted;
    }

    /// @dev A seat of a bid: its latest lease, and atoms that the leases before that one may have paid. A bid of one
    /// node has a record from its second lease on.
    struct BidRecord {
        bytes16 latest;
        uint128 spentBefore;
    }

    mapping(address provider => mapping(uint24 node => uint256)) internal _capacity;
    /// @dev Two bits for each number of an order or of a signed call: whether it was used, and whether it was cancelled.
    mapping(address account => mapping(uint256 word => uint256)) internal _salts;
    /// @dev Lowest salt that the account's signed calls may have; for orders, `Account` holds it.
    mapping(address account => uint64) internal _callsFrom;
    mapping(bytes32 seatKey => BidRecord) internal _bids;
    /// @dev When a bid of several nodes opened its first lease and took its number, which all of its seats share.
    mapping(bytes32 bidHash => uint256 time) internal _seatedAt;
    mapping(address account => Purse) internal _purses;

    /// @dev That one call opens or frees.
    uint256 internal constant MAX_LEASES = 200;
    /// @dev Keeps a node's capacity word from returning to zero, which would cost the next lease a fresh slot.
    uint256 internal constant CAPACITY_TOUCHED = 1 << 255;

    /* LEASES */

    /// @dev Where a lease lies: at its key itself, which is a hash of four words. A mapping would hash that key once more,
    /// with its slot, for every entry of a batch; no other place in storage is the hash of four words.
    function _lease(bytes32 key) internal pure returns (LeaseBox storage box) {
        assembly ("memory-safe") {
            box.slot := key
        }
    }

    function _lease(LeaseKey memory key) internal pure returns (LeaseBox storage) {
        return _lease(Hashes.leaseKey(key.witness, key.buyer, key.provider, key.leaseNo));
    }

    /* ORDERS */

    /// @dev Where the two bits of a salt are: its word, and the lower bit, which says that it was used. The next higher one
    /// says that it was cancelled.
    function _saltBits(Numbered kind, uint64 salt) internal pure returns (uint256 word, uint256 used) {
        return ((uint256(kind) << 64) | (salt >> 7), 1 << (2 * (salt & 127)));
    }

    function _saltsFrom(address account, Numbered kind) internal view returns (uint64) {
        return kind == Numbered.Orders ? _accounts[account].ordersFrom : _callsFrom[account];
    }

    /// @dev Key of a seat's record. A bid of one node has seat 0.
    function _seatKey(bytes32 bidHash, uint16 seat) internal pure returns (bytes32) {
        return seat == 0 ? bidHash : keccak256(abi.encode(bidHash, seat));
    }

    /* WHO SPEAKS FOR AN ACCOUNT */

    /// @dev Whether the account's key signed, or else its contract accepts (ERC-1271). The key is tried first: an account
    /// that has both (EIP-7702) keeps its key, and asking whether there is code costs as much as recovering the signer.
    function _signed(address account, bytes32 digest, bytes calldata signature) internal view returns (bool) {
        (address recovered,,) = ECDSA.tryRecoverCalldata(digest, signature);
        if (recovered == account && account != address(0)) return true;
        return SignatureChecker.isValidERC1271SignatureNowCalldata(account, digest, signature);
    }

    /// @dev Whether `sender` is the account, or one of the two who may end what a purse has begun.
    function _speaksFor(address account, address sender) internal view returns (bool) {
        return sender == account || sender == _purses[account].operator || sender == _purses[account].owner;
    }

    /// @dev Passes if the sender speaks for the account, or one who does has signed.
    function _requireConsent(address account, bytes32 digest, bytes calldata signature) internal view {
        if (_speaksFor(account, msg.sender) || _signed(account, digest, signature)) return;
        Purse memory purse = _purses[account];
        if (_signed(purse.operator, digest, signature) || _signed(purse.owner, digest, signature)) return;
        revert InvalidSignature(account);
    }

    /// @dev The purse, which may still spend.
    function _livePurse(address account) internal view returns (Purse memory purse) {
        purse = _purses[account];
        if (purse.owner != address(0)) Check.atMost(purse.expiry, block.timestamp, PurseExpired.selector);
    }

    /* MONEY */

    /// @dev Atoms that a lease has earned so far.
    function _released(LeaseBox storage box, LeaseSlot slot) internal view returns (uint256 sum) {
        sum = slot.paidTime(SCALE);
        if (slot.hasCounted()) sum += box.counted.paid(SCALE);
    }

    /// @dev Atoms that the terms of a lease reserve for it: what was released and what is locked, while it is open.
    function _fullCost(LeaseBox storage box, LeaseSlot slot) internal view returns (uint256 sum) {
        sum = slot.fullTime(SCALE);
        if (slot.hasCounted()) sum += box.counted.full(SCALE);
    }

    /// @dev Most atoms that a lease may come to in the end.
    function _mostReleased(LeaseBox storage box, LeaseSlot slot) internal view returns (uint256) {
        return slot.isOpen() ? _fullCost(box, slot) : _released(box, slot);
    }

    /// @dev Growth of the fee when what a lease earned grows from `paid` to `total`: a difference of floored totals, as
    /// every payment is, so that splitting never adds. Unchecked: earnings never fall.
    function _feeGrowth(uint256 paid, uint256 total) internal view returns (uint256) {
        unchecked {
            return (total * FEE_BPS) / Units.BPS - (paid * FEE_BPS) / Units.BPS;
        }
    }

    /* CAPACITY */

    function _reserve(address provider, uint24 node, uint256 gpuMilli, uint256 offered) internal {
        if (gpuMilli == 0) return; // a lease without a GPU
        uint256 used = _capacity[provider][node] & ~CAPACITY_TOUCHED;
        if (used + gpuMilli > offered) Check.fail(offered > used ? offered - used : 0, gpuMilli, NodeFull.selector);
        _capacity[provider][node] = CAPACITY_TOUCHED | (used + gpuMilli);
    }

    /// @dev Once for each lease: when it is no longer active.
    function _release(address provider, LeaseSlot slot) internal {
        uint256 gpuMilli = slot.gpuMilli();
        if (gpuMilli == 0) return;
        unchecked {
            _capacity[provider][slot.node()] -= gpuMilli; // what `_reserve` added
        }
    }

    /* ARITHMETIC */

    function _min(uint256 a, uint256 b) internal pure returns (uint256) {
        return a < b ? a : b;
    }

    function _max(uint256 a, uint256 b) internal pure returns (uint256) {
        return a > b ? a : b;
    }

    /* REQUIREMENTS */

    function _requireOpen(LeaseSlot slot, bytes16 leaseNo) internal pure {
        if (!slot.isOpen()) revert LeaseNotOpen(leaseNo, slot.state());
    }
}
